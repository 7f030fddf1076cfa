"""What gets installed: looked at in the built wheel, since the source tree has more."""

from __future__ import annotations

import configparser
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = {"legion_iot", "legion_iot_agent", "legion_iot_broker"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def _names(wheel: zipfile.ZipFile, ending: str) -> list[str]:
    return [name for name in wheel.namelist() if name.endswith(ending)]


def test_three_packages_and_nothing_else_can_be_imported(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith((".dist-info", ".data"))} == PACKAGES


def test_every_module_is_there(wheel: zipfile.ZipFile) -> None:
    places = {"legion_iot": ROOT, "legion_iot_agent": ROOT / "agent", "legion_iot_broker": ROOT / "broker"}
    modules = {str(path.relative_to(root)) for name, root in places.items() for path in (root / name).rglob("*.py")}
    assert set(_names(wheel, ".py")) == modules


def test_type_markers_and_templates(wheel: zipfile.ZipFile) -> None:
    assert set(_names(wheel, "py.typed")) == {f"{package}/py.typed" for package in PACKAGES}
    templates = {f"legion_iot_broker/{name}.conf.template" for name in ("mosquitto", "group")}
    assert set(_names(wheel, ".template")) == templates


def test_the_page_travels_with_its_package(wheel: zipfile.ZipFile) -> None:
    files = {path.name: path.read_bytes() for path in (ROOT / "legion_iot" / "page" / "static").iterdir()}
    place = "legion_iot/page/static/"
    assert {name.removeprefix(place): wheel.read(name) for name in wheel.namelist() if place in name} == files


def test_units_and_drop_ins_travel_as_data(wheel: zipfile.ZipFile) -> None:
    place = ".data/data/share/legion-iot/"
    files = [path for path in (ROOT / "systemd").rglob("*") if path.is_file()]
    assert {name.partition(place)[2] for name in wheel.namelist() if place in name} == {
        str(path.relative_to(ROOT)) for path in files
    }
    assert all(wheel.read(_names(wheel, f"{place}{path.relative_to(ROOT)}")[0]) == path.read_bytes() for path in files)


def test_entry_points(wheel: zipfile.ZipFile) -> None:
    (path,) = _names(wheel, "entry_points.txt")
    parser = configparser.ConfigParser()
    parser.read_string(wheel.read(path).decode())
    assert dict(parser["console_scripts"]) == {
        "legion": "legion_iot.cli.__main__:main",
        "legion-agent": "legion_iot_agent.main:main",
    }


@pytest.mark.parametrize(
    ("machine", "runtime"),
    [
        ("x86_64", {"ai-edge-litert==2.3.0"}),
        ("aarch64", {"ai-edge-litert==2.1.6"}),
        ("armv7l", {"tflite-runtime==2.14.0", "numpy<2"}),
    ],
)
def test_the_runtime_is_that_of_the_processor(wheel: zipfile.ZipFile, machine: str, runtime: set[str]) -> None:
    (path,) = _names(wheel, ".dist-info/METADATA")
    wanted = [Requirement(line.partition(": ")[2]) for line in wheel.read(path).decode().splitlines()
              if line.startswith("Requires-Dist:")]  # fmt: skip
    for python in ("3.10", "3.13"):
        place = {"platform_machine": machine, "python_version": python, "extra": "agent"}
        chosen = [each for each in wanted if each.marker is not None and each.marker.evaluate(place)]
        assert {f"{each.name}{each.specifier}" for each in chosen} - {"tomli>=2"} == runtime


def test_metadata(wheel: zipfile.ZipFile) -> None:
    (path,) = _names(wheel, ".dist-info/METADATA")
    text = wheel.read(path).decode()
    assert "License-Expression: Apache-2.0" in text
    assert _names(wheel, "licenses/LICENSE")
    base = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    # What a device has to carry.
    assert sorted(line.split()[1].split(">")[0].split("<")[0].split("=")[0] for line in base) == [
        "flatbuffers", "msgpack", "numpy", "paho-mqtt", "tflite", "tomli",
    ]  # fmt: skip
