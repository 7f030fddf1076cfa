"""How `legion infer` shows an answer: classes with bars, a table of boxes, numbers, and how long it took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from legion_iot.cli.console import out

if TYPE_CHECKING:
    from legion_iot.orchestrator.client import Answers
    from legion_iot.wire.messages import Answer, OutputDigest, Result

_BAR = 24  # characters of a score of 1
_EIGHTHS = " ▏▎▍▌▋▊▉"
_SHOWN = 8  # values of a tensor


def show(answers: Answers, saved: Path | None) -> None:
    """Print the last answer, and the times; `saved` is where a picture of it was written."""
    result = answers.last.result
    if result.ok:
        _show_answer(result, saved)
    if saved is not None:
        _line(f"picture saved as {saved}")
    if answers.seconds:
        _line(_times(answers))


def _show_answer(result: Result, saved: Path | None) -> None:
    match result.kind:
        case "boxes" if not result.answer:
            _line("nothing was found")
        case "boxes":
            out.print(_boxes(result.answer))
        case "image" if result.image:
            if saved is None:
                _line("the answer is a picture; --save FILE.png writes it")
        case "classes" if result.answer:
            for answer in result.answer:
                _line(f"{answer.score:7.1%}  {_bar(answer.score)}  {answer.label}")
        case _:
            out.print(_tensors(result.outputs))


def _bar(score: float) -> str:
    eighths = round(min(max(score, 0.0), 1.0) * _BAR * 8)
    return f"{'█' * (eighths // 8)}{_EIGHTHS[eighths % 8].strip()}".ljust(_BAR)


def _boxes(found: tuple[Answer, ...]) -> Table:
    table = Table("score", "object", "top", "left", "bottom", "right", box=None, pad_edge=False)
    for column in (0, 2, 3, 4, 5):
        table.columns[column].justify = "right"
    for answer in found:
        table.add_row(f"{answer.score:.1%}", Text(answer.label), *(f"{edge:.1%}" for edge in answer.box or ()))
    return table


def _tensors(outputs: tuple[OutputDigest, ...]) -> Table:
    table = Table("output", "shape", "dtype", "values", box=None, pad_edge=False)
    for output in outputs:
        shown = output.values or ()
        numbers = " ".join("–" if value is None else f"{value:.6g}" for value in shown[:_SHOWN])
        more = " …" if len(shown) > _SHOWN else ""
        table.add_row(
            Text(output.name), "×".join(map(str, output.shape)), output.dtype, f"{numbers}{more}" or "too many"
        )
    return table


def _times(answers: Answers) -> str:
    by = f", by {', '.join(answers.agents)}" if answers.agents else ""
    if len(answers.seconds) == 1 and not answers.failed:
        ms, inside = answers.seconds[0] * 1e3, answers.last.result.latency_ms
        return f"answered in {ms:.1f} ms, {inside:.1f} ms of that in the group{by}"
    times = answers.latency_ms
    return (
        f"{len(answers.seconds)} answered{by}, {answers.per_second:.1f} per second\n"
        f"latency: median {times['median']:.1f} ms, 95 % within {times['p95']:.1f} ms "
        f"({times['min']:.1f}–{times['max']:.1f}), published to answered"
    )


def _line(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
