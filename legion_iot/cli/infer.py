"""`legion infer`: an input for a model that a group serves, and the answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from legion_iot.cli.console import check_place, err, progress_line, write_file
from legion_iot.cli.group_options import BASE_TOPIC, BROKER, member_of
from legion_iot.errors import InputError, RequestError, UsageError

if TYPE_CHECKING:
    from legion_iot.orchestrator.client import Answers

_STANDARD_INPUT = "-"
_CREDENTIALS: Any = typer.Option(
    None, envvar="LEGION_CREDENTIALS", help="The bundle of `legion broker add-device --role client` (or operator)."
)


def infer(
    model: str = typer.Argument(help="The name of a model that the group serves."),
    source: str = typer.Argument(metavar="INPUT", help="A JPEG or PNG picture, a .npy array, or - for standard input."),
    count: int = typer.Option(1, help="How often it is sent."),
    window: int = typer.Option(1, help="How many requests are under way at a time."),
    save: Path | None = typer.Option(
        None,
        help="Where the answer goes as a PNG: the picture that a model makes, or the input with a detector's boxes.",
    ),
    timeout: float = typer.Option(120.0, help="Seconds for each request; the orchestrator gives it no more than 120."),
    broker: str = BROKER,
    base_topic: str = BASE_TOPIC,
    credentials: Path | None = _CREDENTIALS,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Have a group compute a model's answer to a picture or an array.

    Example: legion infer efficientnet-lite0 cat.jpg --broker mqtt://192.168.1.10
    """
    _check(count, window, timeout, save)
    payload = _read(source)
    with progress_line(quiet=as_json or count == 1) as progress:
        from legion_iot.orchestrator.client import Client  # noqa: PLC0415 — loads paho
        from legion_iot.wire.topics import check_model_name  # noqa: PLC0415

        check_model_name(model)
        address, topic, bundle = member_of(broker, base_topic, credentials, "client", "operator")
        with Client(address, topic, bundle.name if bundle else "") as client:
            answers = client.infer(model, payload, progress, count, window, timeout)
    saved = None if save is None else _save(answers, payload, save)
    if as_json:
        typer.echo(json.dumps(_as_json(answers, saved), allow_nan=False))
    else:
        from legion_iot.cli.infer_tables import show  # noqa: PLC0415 — loads rich's tables

        show(answers, saved)
    _raise_for(answers)


def _check(count: int, window: int, timeout: float, save: Path | None) -> None:
    """Raises UsageError for what cannot be, InputError where no file can be put."""
    from legion_iot.orchestrator.client import LONGEST, MOST_REQUESTS, MOST_WINDOW  # noqa: PLC0415 — loads paho

    if not 1 <= count <= MOST_REQUESTS:
        raise UsageError(f"--count is {count}; give a number from 1 to {MOST_REQUESTS}")
    if not 1 <= window <= MOST_WINDOW:
        raise UsageError(f"--window is {window}; give a number from 1 to {MOST_WINDOW}")
    if not 0 < timeout <= LONGEST:
        raise UsageError(f"--timeout is {timeout:g}; give seconds, more than 0 and at most {LONGEST:g}")
    if save is not None:
        if save.suffix.lower() != ".png":
            raise UsageError(f"--save is {str(save)!r}; give a file that ends in .png")
        check_place(save, "--save")


def _read(source: str) -> bytes:
    """The bytes to publish; raises InputError where there are none, or too many."""
    from legion_iot.orchestrator.inputs import MAX_PAYLOAD  # noqa: PLC0415 — loads numpy

    cure = "give a JPEG or PNG picture, a .npy array, or - for standard input"
    try:
        if source == _STANDARD_INPUT:
            payload = sys.stdin.buffer.read(MAX_PAYLOAD + 1) if sys.stdin else b""
        else:
            with Path(source).open("rb") as file:
                payload = file.read(MAX_PAYLOAD + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{source}: cannot be read ({reason}); {cure}") from None
    where = "standard input" if source == _STANDARD_INPUT else source
    if not payload:
        raise InputError(f"{where} is empty; {cure}")
    if len(payload) > MAX_PAYLOAD:
        raise InputError(f"{where} has more than the {MAX_PAYLOAD} bytes that are allowed; send a smaller picture")
    return payload


def _save(answers: Answers, payload: bytes, path: Path) -> Path | None:
    """Write the answer as a picture, whole or not at all; None, and a line that says why, where it is none."""
    content, reason = _picture(answers, payload)
    if content is None:
        err.print(f"{path}: not written, since {reason}", markup=False, soft_wrap=True)
        return None
    write_file(path, content, "--save")
    return path


def _picture(answers: Answers, payload: bytes) -> tuple[bytes | None, str]:
    """The answer as a PNG, or why there is none."""
    result = answers.last.result
    if not result.ok:
        return None, "there is no answer"
    if result.image:
        return answers.last.image, f"the picture has not come on {result.image}; may this client read that?"
    if result.kind != "boxes":
        return None, f"the answer of {result.model} is neither a picture nor boxes"
    try:
        from legion_iot.orchestrator.drawing import draw_boxes  # noqa: PLC0415 — loads numpy

        return draw_boxes(payload, result.answer), ""
    except InputError:
        return None, "boxes can be drawn on a picture only"
    except ImportError:
        raise UsageError("--save needs Pillow for boxes; install it: pip install 'legion-iot[orchestrator]'") from None


def _as_json(answers: Answers, saved: Path | None) -> dict[str, Any]:
    from legion_iot.wire import codec  # noqa: PLC0415

    result = json.loads(codec.to_json(answers.last.result))
    del result["schema"]
    return {
        "schema": 1,
        "ok": not answers.failed,
        "answered": len(answers.seconds),
        "failed": dict(answers.failed),
        "latency_ms": {name: round(ms, 3) for name, ms in answers.latency_ms.items()} or None,
        "per_second": round(answers.per_second, 3),
        "agents": list(answers.agents),
        "saved": None if saved is None else str(saved),
        "result": result,
    }


def _raise_for(answers: Answers) -> None:
    """Raises RequestError where requests have failed."""
    result, total = answers.last.result, sum(answers.failed.values())
    if not total:
        return
    if not answers.seconds and total == 1:
        raise RequestError(f"{result.error}: {result.reason}")
    counts = ", ".join(f"{code} ({number})" for code, number in answers.failed.items())
    reason = "" if result.ok else f"; the last one: {result.reason}"
    raise RequestError(f"{total} of {total + len(answers.seconds)} requests failed: {counts}{reason}")
