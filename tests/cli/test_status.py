"""How a group is shown: on terminals of any size, in pipes, as JSON, and what happens when there is nothing to show."""

from __future__ import annotations

import dataclasses
import io
import shlex
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from rich.text import Text

from legion_iot.cli.columns import Column, table
from legion_iot.cli.devices import _table
from legion_iot.cli.figures import bytes_text, rate_text, span_text
from legion_iot.cli.plain_lines import fields, line
from legion_iot.cli.status import json_line, plain
from legion_iot.cli.status_screen import Heading, screen
from legion_iot.orchestrator.group_view import GroupView, LinkView, device_views, group_view
from legion_iot.orchestrator.observed import Observed
from legion_iot.wire.messages import AgentState
from legion_iot_broker.launch import local_broker
from tests.cli.schemas import check
from tests.cli.test_commands import run
from tests.orchestrator.test_group_view import TOPICS, groups, observed, said, whole

BROKER = "mqtt://192.168.1.10"
HEADING = Heading(BROKER, "g")
MIXED = [
    *whole(),
    said(TOPICS.agent("bee", "state"), AgentState("degraded", "bee", "64 MB are left where models are written")),
    said(TOPICS.agent("cow", "state"), AgentState("offline", "cow")),
]


def printed(shown: RenderableType, width: int, colours: bool = False) -> list[str]:
    """The lines, as a terminal of that width gets them."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colours, color_system="standard" if colours else None)
    console.print(shown)
    return [text.rstrip() for text in file.getvalue().splitlines()]


def like(names: tuple[str, ...], **changed: Any) -> GroupView:
    """A group with these agents, each like the first one of `whole` but for what is changed."""
    view = group_view(observed(*whole()))
    return dataclasses.replace(
        view, agents=tuple(dataclasses.replace(view.agents[0], name=name, **changed) for name in names)
    )


def test_a_group_at_80_columns() -> None:
    view = group_view(observed(*MIXED))
    assert printed(screen(view, HEADING, 80), 80) == [
        "g at mqtt://192.168.1.10",
        "orchestrator  serving, up 60 s, 3 messages dropped",
        "requests      1.0/s, 4 in flight, 1 waiting; 24 answered, 3 failed",
        "agents        1 online, 1 degraded, 1 offline",
        "",
        "AGENT  STATE     BOARD           CORES  LOAD   TEMP  SHARE    TILE  LINK Mbit/s",
        "ant    online    Raspberry Pi 4      4  0.50  51 °C   38 %  4.5 ms    10.0/20.0",
        "bee    degraded  Raspberry Pi 4      4  0.50  51 °C   62 %  4.5 ms    10.0/20.0",
        "cow    offline   —                   —     —      —      —       —            —",
        "  bee: 64 MB are left where models are written",
        "",
        "MODEL  STATE    LATENCY      P95  PREDICTED    BOUND  PER S  IN FLIGHT  FAILED",
        "cats   serving  60.0 ms  75.0 ms    50.0 ms  40.0 ms    0.5       2 +1       3",
        "dogs   serving  60.0 ms  75.0 ms    50.0 ms  40.0 ms    0.5          2       0",
        "  cats: 2 replicas with 0 blocks on ant, bee; ant alone: 90.0 ms",
        "  cats: 2 busy, 1 deadline; the last: busy: enough",
    ]


def test_a_group_at_160_columns() -> None:
    text = "\n".join(printed(screen(group_view(observed(*MIXED)), HEADING, 160), 160))
    for figure in ("10 % of 1.0 kB", "━━━━╸", "7 B", "0.4 ms", "90.0 ms", "halo", "latency", "float32", "TILES", "P95"):
        assert figure in text


def test_devices() -> None:
    views = device_views(observed(*MIXED))
    assert printed(_table(views, 80), 80) == [
        "DEVICE  STATE     BOARD            CORES    MEMORY  LINK Mbit/s  LATENCY",
        "ant     online    Raspberry Pi 4  3 of 4  943.7 MB    10.0/20.0   0.4 ms",
        "bee     degraded  Raspberry Pi 4  3 of 4  943.7 MB    10.0/20.0   0.4 ms",
        "cow     offline   —                    —         —            —        —",
    ]
    wide = printed(_table(views, 160), 160)
    titles = "DEVICE STATE BOARD CORES MEMORY RUNTIME KERNELS VERSION LINK Mbit/s LATENCY HEARD MODELS"
    assert wide[0].split() == titles.split()
    assert wide[1].endswith("litert 2.3.0  xnnpack  0.1.0      10.0/20.0   0.4 ms  2 s ago  bbbbbbbbbbbb, cats")


NAMES = [("a", "b"), ("kitchen-window", "x"), tuple(f"{'n' * 30}-{n}" for n in range(3))]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("names", NAMES, ids=["short", "mixed", "long"])
def test_every_figure_is_readable_and_nothing_wraps(width: int, names: tuple[str, ...]) -> None:
    view = like(
        names, board="A Board With a Name of 38 Characters !", link=LinkView(0.4, 941.2, 93.6, 0.2, 2.0), load=12.25
    )
    lines = printed(screen(view, HEADING, width), width)
    rows = [text for text in lines if "online " in text]
    assert [row.split()[0].rstrip("…") for row in rows] == [
        name[: len(row.split()[0].rstrip("…"))] for name, row in zip(names, rows, strict=True)
    ]
    for row in rows:
        assert [each for each in ("online", "12.25", "51 °C", "38 %", "4.5 ms", "941/93.6") if each not in row] == []
    text = "\n".join(lines)
    for title in ("LATENCY", "PREDICTED", "BOUND", "PER S", "IN FLIGHT", "FAILED"):
        assert title in text


@settings(deadline=None, max_examples=40)
@given(groups(), st.integers(30, 200), st.one_of(st.none(), st.integers(5, 60)))
def test_whatever_is_said_is_shown_in_lines_that_fit(found: Observed, width: int, height: int | None) -> None:
    view = group_view(found)
    for shown in (screen(view, HEADING, width, height), _table(device_views(found), width)):
        file = io.StringIO()
        Console(file=file, width=width, color_system=None).print(shown)
        for text in file.getvalue().split("\n"):
            assert Text(text).cell_len <= width
            assert text.isprintable()
    for text in plain(view, BROKER, "g").values():
        assert text.isprintable()
    check("status", json_line(view, BROKER, "g") + "\n")


@pytest.mark.parametrize("height", [18, 24, 50])
def test_a_large_group_fits_a_low_terminal(height: int) -> None:
    names = tuple(f"agent-{number:03}" for number in range(100))
    view = like(names)
    odd = dataclasses.replace(view.agents[70], problems=("its tiles fail",))
    view = dataclasses.replace(view, agents=(*view.agents[:70], odd, *view.agents[71:]))
    lines = printed(screen(view, HEADING, 80, height), 80)
    assert len(lines) <= height
    shown = [text for text in lines if text.startswith("agent-")]
    assert shown == sorted(shown)
    assert any(text.startswith("agent-070") for text in shown)  # those with problems go first
    assert f"and {100 - len(shown)} more" in lines
    assert "agents        100 online" in lines
    assert [text for text in lines if text.startswith("cats")]
    assert len([text for text in printed(screen(view, HEADING, 80), 80) if text.startswith("agent-")]) == 100


def test_what_is_gone_or_odd_is_coloured() -> None:
    lines = printed(screen(group_view(observed(*MIXED)), HEADING, 80), 80, colours=True)
    row = {name: next(text for text in lines if name in text) for name in ("ant", "bee", "cow")}
    assert "\x1b[32monline" in row["ant"]
    assert "\x1b[33mbee" in row["bee"]
    assert "\x1b[33mdegraded" in row["bee"]
    assert "\x1b[2" in row["cow"]
    plainly = printed(screen(group_view(observed(*MIXED)), HEADING, 80), 80)
    assert not any("\x1b" in text for text in plainly)


def test_without_a_broker_the_last_figures_are_dim() -> None:
    view = group_view(observed(*whole()))
    lines = printed(screen(view, dataclasses.replace(HEADING, away=12.3), 80), 80, colours=True)
    assert "broker away since 12 s" in lines[0]
    assert "\x1b[2;32monline" in next(text for text in lines if "ant" in text)
    back = printed(screen(view, dataclasses.replace(HEADING, settling=True, hint="q ends"), 80), 80)
    assert back[0] == "g at mqtt://192.168.1.10   broker is back, waiting for the group   q ends"


def test_columns_go_where_there_is_no_room_for_them() -> None:
    columns: list[Column[str]] = [
        Column("NAME", lambda row: row, is_text=True, least=5),
        Column("A", lambda row: "12345"),
        Column("MORE", lambda row: "x" * 10, extra=True),
        Column("B", lambda row: "1"),
    ]

    def lines(width: int) -> list[str]:
        return printed(table(columns, ["[red]name", "b"], width, lambda row: False), width)

    assert lines(31) == [
        "NAME           A        MORE  B",
        "[red]name  12345  xxxxxxxxxx  1",
        "b          12345  xxxxxxxxxx  1",
    ]
    assert lines(30)[1] == "[red]name  12345  1"
    assert lines(17)[1] == "[red]n…  12345  1"
    assert lines(14)[1] == "[red]n…  12345"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ({"a": None, "b": "", "c": ()}, "agent ant a=- b=- c=-"),
        ({"a": True, "b": False, "c": 0.123456789, "d": 12}, "agent ant a=yes b=no c=0.123457 d=12"),
        (
            {"a": "two words", "b": 'say "x"', "c": "-", "d": "a=b"},
            'agent ant a="two words" b="say \\"x\\"" c="-" d="a=b"',
        ),
        ({"a": ("x", "y"), "b": "red\x1b[31m"}, "agent ant a=x,y b=red�[31m"),
        (
            fields(LinkView, None, "latency_ms", prefix="link_"),
            "agent ant link_up_mbit_s=- link_down_mbit_s=- link_message_ms=- link_megabyte_ms=-",
        ),
        ({"each": (LinkView(0.5, 10.0, 20.0, 1.5, 3.0),)}, "agent ant each=0.5:10:20:1.5:3"),
    ],
)
def test_a_plain_line(shown: dict[str, Any], text: str) -> None:
    assert line("agent", "ant", shown) == text


def test_plain_lines_have_the_same_keys_whatever_is_known() -> None:
    full, bare = group_view(observed(*MIXED)), group_view(observed(said(TOPICS.agent("ant", "state"), None)))
    assert list(plain(full, BROKER, "g")) == [
        ("group", "g"), ("agent", "ant"), ("agent", "bee"), ("agent", "cow"), ("model", "cats"), ("model", "dogs"),
    ]  # fmt: skip
    keys = [
        [word.partition("=")[0] for word in shlex.split(text)[2:]]
        for (kind, _), text in plain(full, BROKER, "g").items()
        if kind == "agent"
    ]
    assert keys[0] == keys[1] == keys[2]
    assert list(plain(bare, BROKER, "g", connected=False)) == [("group", "g")]
    assert "connected=no orchestrator=offline" in plain(bare, BROKER, "g", connected=False)["group", "g"]


def test_figures() -> None:
    assert [span_text(seconds) for seconds in (0.4, 119, 120, 7199, 7200, 172_800)] == [
        "0 s", "119 s", "2 min", "119 min", "2 h", "2 d",
    ]  # fmt: skip
    assert [rate_text(rate) for rate in (0.0, 0.28, 1.44, 93.64, 941.2)] == ["0", "0.28", "1.4", "93.6", "941"]
    assert [bytes_text(count) for count in (7, 1000, 25_300_000_000)] == ["7 B", "1.0 kB", "25.3 GB"]


# --- the commands, at a broker where nobody is ---


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with local_broker("embedded") as running:
        yield str(running.address)


def test_nobody_is_there(broker: str) -> None:
    done = run("legion", "status", "--broker", broker)
    assert done.returncode == 8
    assert done.stdout.startswith("group legion broker=mqtt://127.0.0.1:")
    assert done.stderr == (
        f"legion: no orchestrator is online below 'legion' at {broker}; start one with: legion orchestrator run\n"
    )
    done = run("legion", "status", "--json", "--broker", broker, "--base-topic", "kitchen/test")
    assert done.returncode == 8
    read = check("status", done.stdout)
    assert (read["base_topic"], read["agents"], read["orchestrator"]["present"]) == ("kitchen/test", [], False)
    done = run("legion", "devices", "--json", "--broker", broker)
    assert (done.returncode, check("devices", done.stdout)["devices"]) == (0, [])
    assert "legion-agent" in done.stderr
    done = run("legion", "devices", "--broker", broker)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("status",), ("status", "--watch"), ("status", "--json"), ("devices", "--json")])
def test_no_broker(command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
    done = run("legion", *command, "--broker", url)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.count("\n") == 1
    assert "nobody listens" in done.stderr
