"""Which settings each program has; its flags, `legion config show` and docs/configuration.md are made of these."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from legion_iot import toml_tables
from legion_iot.configuration.settings import (
    Schema,
    Setting,
    Settings,
    choice,
    configuration_files,
    flag,
    number,
    path,
    resolve,
    text,
    texts,
    whole,
)
from legion_iot.errors import UsageError
from legion_iot.files import state_directory
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.credentials import DEFAULT_BASE_TOPIC, DEFAULT_BROKER, Bundle, check_role, read_bundle
from legion_iot.transport.listening import ListenAddress
from legion_iot.wire.home_assistant import DEFAULT_PREFIX, check_prefix
from legion_iot.wire.topics import Topics, check_agent_name


def _host_name() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")[:32] or "agent"


AUTO = "auto"  # the broker that is announced in the local network
BROKER: Setting[str] = Setting(
    "broker",
    text("mqtt://host[:port], mqtts://host[:port], or auto", lambda value: value == AUTO or BrokerAddress.parse(value)),
    lambda: DEFAULT_BROKER,
    "where the group's broker listens",
    "the bundle's, or this machine's",
)
CREDENTIALS: Setting[Path | None] = Setting(
    "credentials", path("a file"), lambda: None, "the bundle of `legion broker add-device`", "none"
)
NAME: Setting[str] = Setting(
    "name",
    text("up to 32 of a–z, 0–9 and '-'", check_agent_name),
    _host_name,
    "this agent's name in the group",
    "the bundle's, or the host's name",
)
BASE_TOPIC: Setting[str] = Setting(
    "base_topic",
    text("levels of letters, digits, '_' and '-'", Topics),
    lambda: DEFAULT_BASE_TOPIC,
    "the group's topic",
    f"the bundle's, or {DEFAULT_BASE_TOPIC}",
)
STATE_DIR: Setting[Path] = Setting(
    "state_dir",
    path("a directory"),
    state_directory,
    "models and measurements are kept here",
    "$XDG_STATE_HOME/legion-iot, or the unit's state directory",
)
THREADS: Setting[int] = Setting("threads", whole(1, 1024), lambda: 1, "compute threads")
CPU_SHARE: Setting[float | None] = Setting(
    "cpu_share",
    number(0.001, 1024),
    lambda: None,
    "compute as slowly as with this part of a core, such as 0.2",
    "what the machine gives",
)
CPU_QUOTA: Setting[float | None] = Setting(
    "cpu_quota", number(0.001, 1024), lambda: None, "cores that the kernel holds it to", "its control group's"
)
MEMORY_MB: Setting[int | None] = Setting(
    "memory_mb", whole(1, 1 << 30), lambda: None, "memory this device may use", "the machine's, or its limit"
)
MODEL_DISK_MB: Setting[int | None] = Setting(
    "model_disk_mb",
    whole(1, 1 << 30),
    lambda: None,
    "what models may take of the disk; those used longest ago make room",
    "half of what is free at start, beside those that are there",
)
BOARD: Setting[str | None] = Setting(
    "board", text(), lambda: None, "what this device is called in the group", "its model"
)
XNNPACK: Setting[bool] = Setting("xnnpack", flag(), lambda: True, "use XNNPACK's kernels, not the runtime's builtin")
VERBOSE: Setting[bool] = Setting("verbose", flag(), lambda: False, "say what happens, on standard error")

MODELS: Setting[tuple[str, ...]] = Setting(
    "models",
    texts("a list of .tflite files and names from `legion zoo list`"),
    tuple,
    "what is served; as a flag or variable, with commas between them",
    "none but those of `legion model add`",
)
AGENTS: Setting[int] = Setting("agents", whole(1, 10_000), lambda: 1, "agents to wait for before the first plan")
WIRE: Setting[str] = Setting(
    "wire",
    choice("float32", "float16", "int8"),
    lambda: "float32",
    "how float32 maps travel between agents; float16 or int8 are fewer bytes and change the numbers "
    "(measure it with: legion verify --wire)",
)
PLANNER: Setting[str] = Setting(
    "planner",
    text("a name in docs/planning.md"),
    lambda: "auto",
    "how the plan is found: auto, halo, legion, single, …",
)
OBJECTIVE: Setting[str] = Setting(
    "objective", choice("latency", "throughput"), lambda: "latency", "what the plan is to be best at"
)
INPUT_SHAPE: Setting[str] = Setting(
    "input_shape", text("as in 1x320x320x3"), lambda: "", "for a model with open sizes", "the model's own"
)

PAGE: Setting[str] = Setting(
    "page",
    text("address:port", ListenAddress.parse),
    lambda: "",
    "serve the live page there, such as 127.0.0.1:8080; port 0 is any",
    "no page",
)
PAGE_NAMES: Setting[tuple[str, ...]] = Setting(
    "page_names",
    texts("a list of host names"),
    tuple,
    "what browsers may call the page's machine, beside its addresses and localhost",
    "none",
)
HOME_ASSISTANT: Setting[bool] = Setting(
    "home_assistant", flag(), lambda: False, "announce the group and its agents to Home Assistant"
)
HOME_ASSISTANT_PREFIX: Setting[str] = Setting(
    "home_assistant_prefix",
    text("levels of letters, digits, '_' and '-'", check_prefix),
    lambda: DEFAULT_PREFIX,
    "Home Assistant's discovery prefix",
)
PROMETHEUS: Setting[str] = Setting(
    "prometheus",
    text("address:port", ListenAddress.parse),
    lambda: "",
    "serve metrics there, such as 127.0.0.1:9464; port 0 is any",
    "no metrics",
)

AGENT: Schema = (
    BROKER, CREDENTIALS, NAME, BASE_TOPIC, STATE_DIR, THREADS, CPU_SHARE, CPU_QUOTA, MEMORY_MB, MODEL_DISK_MB, BOARD,
    XNNPACK, VERBOSE,
)  # fmt: skip
ORCHESTRATOR: Schema = (
    MODELS, BROKER, CREDENTIALS, AGENTS, BASE_TOPIC, WIRE, PLANNER, OBJECTIVE, INPUT_SHAPE, STATE_DIR,
    PAGE, PAGE_NAMES,
    HOME_ASSISTANT, HOME_ASSISTANT_PREFIX, PROMETHEUS,
)  # fmt: skip
PROGRAMS: Mapping[str, Schema] = {"agent": AGENT, "orchestrator": ORCHESTRATOR}
# Variables of other commands.
_OTHER_VARIABLES = frozenset({"LEGION_BROKER_DIR"})


def configured(
    program: str, flags: Mapping[str, Any], environment: Mapping[str, str], chosen: Path | None = None
) -> tuple[Settings, Bundle | None]:
    """A program's settings and its bundle, which says what nobody else has said.

    `chosen` is read instead of the program's files. Raises UsageError or InputError.
    """
    schema = PROGRAMS[program]
    settings = resolve(schema, flags, environment, configuration_files(program, chosen, environment))
    file = settings[CREDENTIALS]
    if file is None:
        return settings, None
    bundle = check_role(read_bundle(file), program)
    if NAME in schema and not settings.is_default(NAME) and settings[NAME] != bundle.name:
        said = settings.given(NAME).source
        raise UsageError(
            f"name is {settings[NAME]!r} ({said}), but the bundle is {bundle.name!r}'s: leave one of the two out"
        )
    values: dict[Setting[Any], Any] = {BASE_TOPIC: bundle.base_topic}
    if bundle.broker:
        values[BROKER] = bundle.broker
    if NAME in schema:
        values[NAME] = check_agent_name(bundle.name)
    return settings.with_defaults(values, f"bundle {file}"), bundle


def address(settings: Settings, bundle: Bundle | None) -> BrokerAddress:
    """The broker, with all that it wants to see of us; with `auto` it is looked for in the local network.

    Raises UsageError, and BrokerError where it is not found.
    """
    url = "" if settings.is_default(BROKER) else settings[BROKER]
    if url == AUTO:
        from legion_iot.transport.discovery import find  # noqa: PLC0415 — few need it

        url = find(settings[BASE_TOPIC])
    # A bundle that names no broker says so better than the default would.
    return BrokerAddress.parse(url or DEFAULT_BROKER) if bundle is None else bundle.address(url)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each `LEGION_*` variable that no program reads."""
    known = {s.variable for schema in PROGRAMS.values() for s in schema} | _OTHER_VARIABLES
    wrong = sorted(name for name in environment if name.startswith("LEGION_") and name not in known)
    return [f"{name}: no setting; {toml_tables.suggestion(name, known)}" for name in wrong]
