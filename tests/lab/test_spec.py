"""Lab specifications: what can be written is read, what cannot be meant is refused in one line that says why."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.errors import InputError, LegionError, UsageError
from legion_iot.lab.presets import find_lab, find_preset, presets
from legion_iot.lab.spec import BOARDS, Device, LabSpec, Link, check_machine, parse_spec, read_spec

GOOD = """
name = "kitchen"
broker = "embedded"
base_topic = "home/kitchen"

[[device]]
name = "firefly"
count = 2
board = "rk3399"

[[device]]
name = "zero"
board = "pi-zero-2"
cpu_share = 0.1
threads = 2
memory_mb = 400
xnnpack = false
link = { up_mbit = 10, down_mbit = 20.5, delay_ms = 4, loss_percent = 1 }
"""


def test_a_specification() -> None:
    lab = parse_spec(GOOD, "file")
    assert (lab.name, lab.broker, lab.base_topic) == ("kitchen", "embedded", "home/kitchen")
    assert [device.name for device in lab.devices] == ["firefly1", "firefly2", "zero"]
    assert lab.devices[0].link == BOARDS["rk3399"].link
    assert lab.devices[2] == Device("zero", "pi-zero-2", 0.1, 2, 400, False, Link(10, 20.5, 4, 1))


def test_what_is_not_said_comes_from_the_board_and_the_file() -> None:
    lab = parse_spec('[[device]]\nboard = "xu4"\nlink = { delay_ms = 2 }', "shelf")
    assert lab.name == "shelf"
    assert lab.devices == (Device("o", "xu4", 0.14, 1, 2000, True, Link(100, 100, 2)),)


def test_a_board_of_ones_own() -> None:
    lab = parse_spec('[[device]]\nboard = "toaster"\ncpu_share = 0.3', "x")
    assert lab.devices == (Device("toaster", "toaster", 0.3),)


ONE = '[[device]]\nname = "a"\nboard = "rk3399"\n'
WRONG = {
    "unknown key at the top": ('brooker = "auto"\n' + ONE, "did you mean 'broker'"),
    "unknown key of a device": (ONE + "cpu_shares = 0.1", "did you mean 'cpu_share'"),
    "unknown key of a link": (ONE + "link = { upmbit = 1 }", "did you mean 'up_mbit'"),
    "a key like no other": (ONE + "colour = 1", "there are board"),
    "no devices": ('name = "x"', "at least one [[device]]"),
    "a device that is no table": ("device = [1]", "at least one [[device]]"),
    "one table instead of a list": ('[device]\nboard = "xu4"', "at least one [[device]]"),
    "no board": ('[[device]]\nname = "a"', "board is missing"),
    "unknown board without a share": ('[[device]]\nboard = "rk3398"', "did you mean 'rk3399'"),
    "a board with blanks": ('[[device]]\nboard = "my board"', "board is"),
    "share zero": (ONE + "cpu_share = 0", "cpu_share is 0; give a number from 0.05"),
    "share negative": (ONE + "cpu_share = -1", "cpu_share is -1"),
    "share not a number": (ONE + "cpu_share = nan", "cpu_share is nan"),
    "share infinite": (ONE + "cpu_share = inf", "cpu_share is inf"),
    "share a flag": (ONE + "cpu_share = true", "cpu_share is True"),
    "share a text": (ONE + 'cpu_share = "half"', "cpu_share is 'half'"),
    "share above the threads": (ONE + "cpu_share = 1.5", "1 thread(s) cannot use 1.5 cores"),
    "rate zero": (ONE + "link = { up_mbit = 0 }", "up_mbit is 0; give a number from 0.1 to 10000"),
    "rate negative": (ONE + "link = { down_mbit = -3 }", "down_mbit is -3"),
    "delay beyond all": (ONE + "link = { delay_ms = 1e9 }", "delay_ms is 1e+09"),
    "everything lost": (ONE + "link = { loss_percent = 100 }", "loss_percent is 100"),
    "a link that is none": (ONE + "link = 100", "give link = {"),
    "threads in parts": (ONE + "threads = 1.5", "threads is 1.5"),
    "no threads": (ONE + "threads = 0", "threads is 0"),
    "little memory": (ONE + "memory_mb = 1", "memory_mb is 1"),
    "a kernel path in words": (ONE + 'xnnpack = "yes"', "give true or false"),
    "no name": (ONE.replace('"a"', '""'), "name is ''"),
    "a name in capitals": (ONE.replace('"a"', '"Kitchen"'), "'Kitchen' cannot be"),
    "the orchestrator's name": (ONE.replace('"a"', '"orchestrator"'), "'orchestrator' cannot be"),
    "a name twice": (ONE + ONE, "two devices are called 'a'"),
    "count zero": (ONE + "count = 0", "count is 0"),
    "too many": (ONE + "count = 33", "count is 33"),
    "too many together": (ONE + "count = 20\n" + ONE.replace('"a"', '"b"') + "count = 20", "40 devices"),
    "unknown broker": ('broker = "emqx"\n' + ONE, "give one of auto, mosquitto, embedded"),
    "a base topic with wildcards": ('base_topic = "a/#"\n' + ONE, "base_topic"),
    "no TOML": ("[[device", "no TOML"),
    "nested without end": ("a = " + "[" * 5000, "no TOML"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name: str) -> None:
    text, cause = WRONG[name]
    with pytest.raises(InputError, match=re.escape(cause)) as caught:
        parse_spec(text, "x")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_spec(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_spec(tmp_path)
    path = tmp_path / "wrong.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"wrong\.toml: is not UTF-8"):
        read_spec(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="larger than"):
        read_spec(path)
    path.write_text(ONE + "threads = 0")
    with pytest.raises(InputError, match=r"wrong\.toml: device 1: threads"):
        read_spec(path)


def test_more_than_the_machine_has() -> None:
    lab = LabSpec("big", tuple(Device(f"d{n}", "x", 0.5) for n in range(5)))
    check_machine(lab, 3)
    with pytest.raises(UsageError, match=r"big ask for 2\.50 cores in all, and this machine has 2"):
        check_machine(lab, 2)


_shares = st.floats(0.05, 4, allow_nan=False)
_links = st.builds(
    Link,
    *[st.one_of(st.none(), st.floats(0.1, 10_000))] * 2,
    st.floats(0, 2000),
    st.floats(0, 30),
)


@st.composite
def _devices(draw: st.DrawFn) -> tuple[Device, ...]:
    names = draw(
        st.lists(st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True), min_size=1, max_size=5, unique=True)
    )
    return tuple(
        Device(
            name, draw(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)) + "x", draw(_shares),
            draw(st.integers(4, 64)), draw(st.one_of(st.none(), st.integers(128, 1 << 20))), draw(st.booleans()),
            draw(_links),
        )
        for name in names
        if name != "orchestrator"
    )  # fmt: skip


def _toml(device: Device) -> str:
    link = {key: getattr(device.link, key) for key in ("up_mbit", "down_mbit", "delay_ms", "loss_percent")}
    lines = [f"{key} = {value!r}" for key, value in (("cpu_share", device.cpu_share), ("threads", device.threads))]
    lines += [f"{key} = {json.dumps(getattr(device, key))}" for key in ("name", "board", "xnnpack")]
    if device.memory_mb is not None:
        lines.append(f"memory_mb = {device.memory_mb}")
    inner = ", ".join(f"{key} = {value!r}" for key, value in link.items() if value is not None)
    return "\n".join(["[[device]]", *lines, f"link = {{ {inner} }}"])


@given(_devices())
def test_what_is_written_is_read(devices: tuple[Device, ...]) -> None:
    if devices:
        assert parse_spec("\n".join(_toml(device) for device in devices), "x").devices == devices


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_spec(text, "x")
    except LegionError as error:
        assert "\n" not in str(error)


_values = st.recursive(
    st.one_of(st.booleans(), st.integers(-5, 5), st.floats(), st.sampled_from(["", "a", "rk3399", "x y"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["up_mbit", "q"]), inner)),
    max_leaves=4,
)


@given(st.sampled_from(["name", "count", "board", "cpu_share", "threads", "memory_mb", "xnnpack", "link"]), _values)
def test_any_value_of_any_key(key: str, value: object) -> None:
    table = {"board": '"rk3399"', key: _literal(value)}
    text = "[[device]]\n" + "\n".join(f"{key} = {value}" for key, value in table.items())
    try:
        lab = parse_spec(text, "x")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert all(0.05 <= device.cpu_share <= device.threads for device in lab.devices)


def _literal(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_literal(each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ", ".join(_literal(each) for each in value) + "]"
        case bool() | str():
            return json.dumps(value)
        case _:
            return repr(value)


def test_presets_are_the_groups_of_the_paper() -> None:
    labs = presets()
    for name in ("legion-1f", "legion-6f", "legion-1f1o", "legion-3f3o", "legion-3f2o", "legion-2o", "pi-mixed"):
        assert labs[name].name == name
    assert [device.board for device in labs["legion-3f3o"].devices] == ["rk3399"] * 3 + ["xu4"] * 3
    assert labs["legion-6f"].load < 1.2
    for lab in labs.values():
        assert lab.load < 1.2
        assert len({device.name for device in lab.devices}) == len(lab.devices)
    assert all((device.link.up_mbit, device.link.down_mbit) == (100, 100) for device in labs["legion-6f"].devices)


def test_a_preset_misspelt() -> None:
    with pytest.raises(UsageError, match="did you mean 'legion-6f'"):
        find_preset("legion6f")
    with pytest.raises(UsageError, match="there are"):
        find_preset("?")


def test_a_name_or_a_file(tmp_path: Path) -> None:
    assert find_lab("legion-2f").name == "legion-2f"
    path = tmp_path / "mine.toml"
    path.write_text(ONE)
    assert find_lab(str(path)).name == "mine"
    assert os.sep in str(path)
