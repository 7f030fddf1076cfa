"""The commands of `legion`, and what the help says of each; their modules are loaded when they are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Described:
    """A command in the list of all: the module and the attribute it is, and the first lines of its own help."""

    module: str
    attribute: str
    line: str
    section: str


TRY, MODELS, GROUP, SERVICES, MEASURE = (
    "Try it", "Models and plans", "A group that runs", "Its programs", "Measure",
)  # fmt: skip

COMMANDS = {
    "demo": Described(
        "demo", "demo",
        "Classify a picture with several agent processes that compute one network together, over an MQTT broker.", TRY,
    ),
    "lab": Described("lab", "app", "Emulated devices on this machine: slow processors, shaped links.", TRY),
    "simulate": Described(
        "simulate", "simulate",
        "Groups in virtual time: the real machines of orchestrator and agents, with faults from seeds.", TRY,
    ),
    "zoo": Described("zoo", "app", "Networks to try, by name.", MODELS),
    "verify": Described(
        "verify", "verify",
        "Cut a model into tiles, run them all here, stitch them, and compare with the whole model at every cut.",
        MODELS,
    ),
    "plan": Described(
        "plan", "plan", "Plan a model for a group of devices, and predict how long a request takes.", MODELS
    ),
    "cost": Described(
        "cost", "cost", "Show Legion's cost matrices: S, E, R and A of each device, and T of the group.", MODELS
    ),
    "infer": Described(
        "infer", "infer", "Have a group compute a model's answer to a picture or an array.", GROUP
    ),
    "status": Described(
        "status", "status", "Show how a group does: its agents, its models and their plans, its requests.", GROUP
    ),
    "devices": Described(
        "devices", "devices",
        "List the agents of a group: what each device is, its link, and the models it holds.", GROUP,
    ),
    "model": Described("model", "app", "Look at models, and say which ones a group serves.", GROUP),
    "doctor": Described(
        "doctor", "doctor", "Find out what is wrong with this machine, the broker or the group, and what to do.", GROUP
    ),
    "profile": Described(
        "profile", "profile", "Show what was measured on each device of a group, or have it measured anew.", GROUP
    ),
    "trace": Described(
        "trace", "trace", "Show what became of a request: who computed, sent and waited when, and for how long.", GROUP
    ),
    "broker": Described("broker", "app", "An MQTT broker, for this machine or for a group of devices.", SERVICES),
    "orchestrator": Described("orchestrator", "app", "Serve models with the agents of a group.", SERVICES),
    "config": Described(
        "config", "app", "What agent and orchestrator of this machine are told, and who said so.", SERVICES
    ),
    "bench": Described("bench", "app", "Measure what this machine does, beside what is promised.", MEASURE),
}  # fmt: skip
