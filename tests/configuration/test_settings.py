"""Where a setting's value comes from, and what is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legion_iot.configuration import settings as module
from legion_iot.configuration.programs import AGENT, ORCHESTRATOR, PROGRAMS, THREADS, VERBOSE
from legion_iot.configuration.report import in_toml, rows
from legion_iot.configuration.settings import Setting, configuration_files, resolve
from legion_iot.errors import InputError, UsageError
from legion_iot.toml_tables import parse

EVERY = {s.key: s for s in (*AGENT, *ORCHESTRATOR)}
# A value of each setting that is not its default.
SAMPLES: dict[str, Any] = {
    "broker": "mqtts://hub:8884", "credentials": "/a/b.pem", "name": "ant", "base_topic": "a/b", "state_dir": "/s",
    "threads": 3, "cpu_share": 0.5, "cpu_quota": 1.5, "memory_mb": 512, "model_disk_mb": 9,
    "board": "pi \"4\" \\ x", "xnnpack": False,
    "verbose": True, "models": ("vgg16", "a.tflite"), "agents": 4, "wire": "int8", "planner": "halo",
    "objective": "throughput", "input_shape": "1x8x8x3", "page": "127.0.0.1:8080", "page_names": ("hub.local", "hub"),
    "home_assistant": True, "home_assistant_prefix": "ha", "prometheus": "[::1]:9464",
}  # fmt: skip


def file(directory: Path, text: str, name: str = "agent.toml") -> Path:
    written = directory / name
    written.write_text(text, encoding="utf-8")
    return written


def test_there_is_a_sample_of_each() -> None:
    assert set(SAMPLES) == set(EVERY)


@given(st.sets(st.sampled_from(["flag", "environment", "system", "user"])))
def test_the_first_layer_that_speaks_is_heard(tmp_path_factory: pytest.TempPathFactory, speaking: set[str]) -> None:
    place = tmp_path_factory.mktemp("layers")
    files = [file(place, "threads = 30" if "system" in speaking else "", "system.toml"),
             file(place, "threads = 40" if "user" in speaking else "", "user.toml")]  # fmt: skip
    flags = {"threads": "10"} if "flag" in speaking else {}
    variables = {"LEGION_THREADS": "20"} if "environment" in speaking else {}
    found = resolve(AGENT, flags, variables, files)
    order = {"flag": (10, "flag --threads"), "environment": (20, "environment LEGION_THREADS"),
             "system": (30, str(files[0])), "user": (40, str(files[1]))}  # fmt: skip
    expected = next((order[layer] for layer in order if layer in speaking), (1, "default"))
    assert (found[THREADS], found.given(THREADS).source) == expected


@pytest.mark.parametrize("setting", EVERY.values(), ids=list(EVERY))
def test_every_layer_reads_the_same(setting: Setting[Any], tmp_path: Path) -> None:
    value = SAMPLES[setting.key]
    schema, spoken = (setting,), ",".join(value) if isinstance(value, tuple) else str(value)
    written = file(tmp_path, f"{setting.key} = {in_toml(value)}\n")
    found = [
        resolve(schema, {setting.key: spoken}, {}, []),
        resolve(schema, {setting.key: value}, {}, []),
        resolve(schema, {}, {setting.variable: spoken}, []),
        resolve(schema, {}, {}, [written]),
    ]
    assert [str(each[setting]) for each in found] == [str(value)] * 4
    assert resolve(schema, {}, {}, [])[setting] != value
    # What `show` prints can be written into a file again.
    shown = parse(f"x = {rows(found[-1])[0][1]}")["x"]
    assert shown == (list(value) if isinstance(value, tuple) else value)


@pytest.mark.parametrize("program", PROGRAMS)
def test_flags_and_variables_are_the_key(program: str) -> None:
    for setting in PROGRAMS[program]:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", setting.key)
        assert setting.flag == "--" + setting.key.replace("_", "-")
        assert setting.variable == f"LEGION_{setting.key.upper()}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("thread = 2", "did you mean 'threads'?"),
        ("base-topic = 'x'", "did you mean 'base_topic'?"),
        ("threads = '2'", "threads is '2'; give a whole number from 1 to 1024"),
        ("threads = true", "threads is True"),
        ("threads = 0", "threads is 0"),
        ("verbose = 1", "give true or false"),
        ("cpu_share = nan", "cpu_share is nan"),
        ("name = 'Kitchen/Pi'", "'Kitchen/Pi'"),
        ("name = ''", "name is ''"),
        ("base_topic = 'a/#'", "base topic"),
        ("broker = 'http://hub'", "mqtt://"),
        ("broker = ", "no TOML"),
        ("broker = 'mqtts://hub", "no TOML"),
        ("threads = 2\nthreads = 3", "no TOML"),
        ("[threads]\nn = 2", "threads is {'n': 2}"),
        ("name = '\\u0000'\n\x00", "no TOML"),
    ],
)
def test_what_a_file_gets_wrong_is_one_line_that_names_it(text: str, says: str, tmp_path: Path) -> None:
    written = file(tmp_path, text)
    with pytest.raises(InputError) as raised:
        resolve(AGENT, {}, {}, [written])
    assert says in str(raised.value)
    assert str(raised.value).startswith(str(written))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["password", "token", "secret", "key", "certificate"])
def test_a_secret_is_refused_and_not_repeated(key: str, tmp_path: Path) -> None:
    for text in (f"{key} = 'hunter2'", "broker = 'mqtts://ant:hunter2@hub'"):
        with pytest.raises(InputError) as raised:
            resolve(AGENT, {}, {}, [file(tmp_path, text)])
        assert "hunter2" not in str(raised.value)
    with pytest.raises(UsageError) as refused:
        resolve(AGENT, {}, {"LEGION_BROKER": "mqtts://ant:hunter2@hub"}, [])
    assert "hunter2" not in str(refused.value)


def test_a_file_that_others_can_change_or_that_is_none_is_refused(tmp_path: Path) -> None:
    written = file(tmp_path, "threads = 2")
    written.chmod(0o666)
    for wrong, says in ((written, "chmod"), (tmp_path, "is no file"), (tmp_path / "none.toml", "cannot be read")):
        with pytest.raises(InputError, match=says):
            resolve(AGENT, {}, {}, [wrong])
    assert resolve(AGENT, {}, {}, [Path("/dev/null")])[THREADS] == 1


def test_every_beginning_of_a_file_is_read_or_refused(tmp_path: Path) -> None:
    text = "".join(f"{s.key} = {in_toml(SAMPLES[s.key])}\n" for s in AGENT)
    written = tmp_path / "agent.toml"
    for length in range(len(text)):
        written.write_text(text[:length], encoding="utf-8")
        try:
            found = resolve(AGENT, {}, {}, [written])
        except InputError as error:
            assert str(error).startswith(f"{written}: ")
            continue
        whole_lines = text[: length + 1].count("\n")  # the last line may lack its end only
        assert sum(not found.is_default(s) for s in AGENT) >= whole_lines


@given(st.text(max_size=40))
def test_no_text_in_a_variable_brings_it_down(value: str) -> None:
    for setting in EVERY.values():
        try:
            found = resolve((setting,), {}, {setting.variable: value}, [])
        except UsageError as error:
            assert str(error).startswith(f"{setting.variable}: ")
        else:
            assert found.is_default(setting) == (value == "")


def test_paths_in_a_file_are_beside_it(tmp_path: Path) -> None:
    found = resolve(AGENT, {}, {}, [file(tmp_path, "credentials = 'agent.pem'")])
    assert found[EVERY["credentials"]] == tmp_path / "agent.pem"


def test_the_files_of_system_and_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, user = tmp_path / "etc", tmp_path / "user"
    monkeypatch.setattr(module, "SYSTEM_DIRECTORY", system)
    places = [system / "agent.toml", user / "legion-iot" / "agent.toml"]
    for present in itertools.product([False, True], repeat=2):
        for there, place in zip(present, places, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            if there:
                place.touch()
        expected = tuple(place for there, place in zip(present, places, strict=True) if there)
        assert configuration_files("agent", None, {"XDG_CONFIG_HOME": str(user)}) == expected
    assert configuration_files("agent", tmp_path / "other", {"XDG_CONFIG_HOME": str(user)}) == (tmp_path / "other",)
    home = {"HOME": str(tmp_path)}
    (tmp_path / ".config" / "legion-iot").mkdir(parents=True)
    (tmp_path / ".config" / "legion-iot" / "agent.toml").touch()
    assert configuration_files("agent", None, home)[-1] == tmp_path / ".config" / "legion-iot" / "agent.toml"


def test_a_units_credential_is_found(tmp_path: Path) -> None:
    setting = EVERY["credentials"]
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert resolve(AGENT, {}, environment, [])[setting] is None
    (tmp_path / "bundle").touch()
    written = file(tmp_path, "credentials = 'other.pem'")
    assert resolve(AGENT, {}, environment, [written])[setting] == tmp_path / "bundle"
    said = {**environment, "LEGION_CREDENTIALS": "/said.pem"}
    assert resolve(AGENT, {}, said, [written])[setting] == Path("/said.pem")


def test_flags_that_were_not_given_say_nothing() -> None:
    assert resolve(AGENT, {"threads": None, "verbose": ""}, {"LEGION_THREADS": ""}, [])[VERBOSE] is False
