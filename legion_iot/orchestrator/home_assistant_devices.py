"""What Home Assistant is told of a group: a discovery message for each device, with templates that read our topics.

Theory. Nothing is published for Home Assistant but these messages. Their templates (Jinja) find each value in what the
group says anyway; where a topic was cleared, they give `None`, which Home Assistant shows as unknown. A component that
is not wanted any more has to be named once more, with its platform only; so it is, for good, since nobody tells us
whether Home Assistant was there to read it. A device goes when its message is cleared.

Source: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from legion_iot.runtime.orchestrator_state import MOST_AGENTS
from legion_iot.wire import codec
from legion_iot.wire.bridge import Replan
from legion_iot.wire.group import AgentMetrics, GroupMetrics
from legion_iot.wire.home_assistant import GROUP, DiscoveryTopics, agent_device, agent_of
from legion_iot.wire.topics import Topics

Component = dict[str, Any]
AGENT_STATES = ["online", "degraded", "draining", "offline"]
GROUP_STATES = ["gathering", "profiling", "assigning", "serving", "idle", "offline"]
LONGEST = 255  # characters of a state in Home Assistant
TEMPERATURE = "temperature"  # of an agent that has a sensor


class Discovery:
    """The messages of one group, and what of them is new; `found` comes first."""

    def __init__(self, topics: Topics, places: DiscoveryTopics) -> None:
        self._topics, self._places = topics, places
        self._said: dict[str, bytes] = {}  # by name of the device
        self._basis: dict[str, Hashable] = {}  # what the message of a device was last made of
        self._platforms: dict[str, dict[str, str]] = {}  # of every component that was ever said, by device
        self._warm: set[str] = set()  # agents that have told a temperature
        self._pictured: set[str] = set()  # models that have answered with a picture
        self._gone: set[str] = set()  # agents whose state was cleared, until they come back

    def found(self, retained: Mapping[str, bytes], agents: set[str]) -> list[str]:
        """Take note of what is retained by topic; the topics to clear, of agents that are not among these any more."""
        stale = []
        for topic, payload in retained.items():
            name = self._places.name_in(topic)
            agent = agent_of(name)
            if name != GROUP and agent not in agents:
                stale.append(topic)
                continue
            self._said[name], self._platforms[name] = payload, _platforms(payload)
            if TEMPERATURE in self._platforms[name]:
                self._warm.add(agent)
        self._pictured |= {
            key.removeprefix("model-").removesuffix("-picture")
            for key, platform in self._platforms.get(GROUP, {}).items()
            if platform == "image"
        }
        return stale

    def changes(self, group: GroupMetrics) -> list[tuple[str, bytes]]:
        """Topics and payloads that are new, the group first: the agents' devices refer to it."""
        self._warm |= {agent.agent for agent in group.agents if agent.temperature is not None}
        models = tuple(model.name for model in group.models)
        new = self._if_new(GROUP, (models, frozenset(self._pictured)), lambda: self._group(models))
        for each in group.agents:
            if each.agent not in self._gone:
                basis = each.board, each.agent in self._warm
                new += self._if_new(agent_device(each.agent), basis, partial(self._agent, each))
        return new

    def _if_new(self, name: str, basis: Hashable, make: Callable[[], dict[str, Any]]) -> list[tuple[str, bytes]]:
        """A device's message where it is not the one that holds; made only if what it is made of has changed."""
        if name in self._said and self._basis.get(name) == basis:
            return []
        payload = self._with_removed(name, make())
        if payload != self._said.get(name):
            return [(self._places.device(name), payload)]
        self._basis[name] = basis
        return []

    def pictured(self, model: str) -> None:
        """The model has answered with a picture."""
        self._pictured.add(model)

    def removed(self, agent: str) -> str | None:
        """An agent's state was cleared: the topic to clear, if it had a device."""
        if len(self._gone) < MOST_AGENTS:
            self._gone.add(agent)
        topic = self._places.device(agent_device(agent))
        return topic if agent_device(agent) in self._said else None

    def returned(self, agent: str) -> None:
        """An agent is there."""
        self._gone.discard(agent)

    def said(self, topic: str, payload: bytes) -> None:
        """A message is on its way; an empty one clears."""
        name = self._places.name_in(topic)
        if payload:
            self._said[name] = payload
        else:
            self._said.pop(name, None)
            self._platforms.pop(name, None)
            self._basis.pop(name, None)

    def everything(self) -> list[tuple[str, bytes]]:
        """All messages that hold, to be said again."""
        names = sorted(self._said, key=lambda name: name != GROUP)
        return [(self._places.device(name), self._said[name]) for name in names]

    def _with_removed(self, name: str, device: dict[str, Any]) -> bytes:
        components = device["components"]
        known = self._platforms.setdefault(name, {})
        removed = {key: {"platform": platform} for key, platform in known.items() if key not in components}
        known.update({key: component["platform"] for key, component in components.items()})
        return json.dumps({**device, "components": {**components, **removed}}).encode()

    # --- the devices ---

    def _identifier(self, name: str) -> str:
        return f"legion-iot_{self._places.node}_{name}"

    def _device(
        self, name: str, about: dict[str, Any], available: Iterable[str], *components: Component
    ) -> dict[str, Any]:
        """A message; its values can be had while none of the topics of `available` says that its owner is offline."""
        identifier = self._identifier(name)
        keyed = {component.pop("key"): component for component in components}
        for key, component in keyed.items():
            component["unique_id"] = f"{identifier}_{key}"
        template = "{{ 'online' if value_json is defined and value_json.state != 'offline' else 'offline' }}"
        return {
            "device": {"identifiers": [identifier], "manufacturer": "legion-iot", **about},
            "origin": {"name": "legion-iot", "sw_version": _version()},
            "availability": [{"topic": topic, "value_template": template} for topic in available],
            "availability_mode": "all",
            "components": keyed,
        }

    def _agent(self, agent: AgentMetrics) -> dict[str, Any]:
        name = agent.agent
        state, metrics = self._topics.agent(name, "state"), self._topics.agent(name, "metrics")
        about = {"name": name, "via_device": self._identifier(GROUP)}
        if agent.board:
            about["model"] = agent.board
        sensors = [
            _state(state, AGENT_STATES),
            _sensor(
                "load", "Load", metrics, "value_json.load | round(1)",
                state_class="measurement", icon="mdi:gauge", entity_category="diagnostic",
            ),
            _sensor(
                "tile-time", "Tile time", metrics,
                "(1000 * value_json.computing / value_json.tiles) | round(1) if value_json.tiles else none",
                device_class="duration", unit_of_measurement="ms", state_class="measurement",
                entity_category="diagnostic",
            ),
            _sensor(
                "memory", "Memory", metrics, "(value_json.memory_resident / 1000000) | round | int",
                device_class="data_size", unit_of_measurement="MB", state_class="measurement",
                entity_category="diagnostic",
            ),
        ]  # fmt: skip
        if name in self._warm:
            sensors.append(
                _sensor(
                    TEMPERATURE, "Temperature", metrics,
                    "value_json.temperature | round(1) if value_json.temperature is not none else none",
                    device_class="temperature", unit_of_measurement="°C", state_class="measurement",
                )
            )  # fmt: skip
        return self._device(agent_device(name), about, (state, self._topics.orchestrator_state()), *sensors)

    def _group(self, models: Iterable[str]) -> dict[str, Any]:
        state, metrics = self._topics.orchestrator_state(), self._topics.orchestrator_metrics()
        base = self._topics.base
        about = {"name": "Legion" if base == "legion" else f"Legion {base}", "model": "Group of devices"}
        failures = "value_json.models | map(attribute='failed') | sum(start=[]) | sum(attribute='count')"
        components = [
            _state(state, GROUP_STATES),
            _sensor("agents", "Agents online", state, "value_json.agents | length", state_class="measurement"),
            _sensor(
                "answered", "Requests answered", metrics, "value_json.models | sum(attribute='answered')",
                state_class="total_increasing", icon="mdi:check",
            ),
            _sensor("failed", "Requests failed", metrics, failures, state_class="total_increasing", icon="mdi:alert"),
            _sensor(
                "rate", "Requests per second", metrics,
                "value_json.models | sum(attribute='per_second') | round(1)",
                unit_of_measurement="1/s", state_class="measurement", icon="mdi:speedometer",
            ),
            _sensor(
                "last-error", "Last error", metrics,
                f"(value_json.models | map(attribute='last_error') | select | join('; ') or 'none')[:{LONGEST}]",
                icon="mdi:alert-circle-outline", entity_category="diagnostic",
            ),
            {
                "key": "replan",
                "platform": "button",
                "name": "Plan anew",
                "command_topic": self._topics.bridge_request("replan"),
                "payload_press": codec.to_json(Replan("home-assistant")).decode(),
                "qos": 1,
                "icon": "mdi:refresh",
                "entity_category": "config",
            },
        ]  # fmt: skip
        for model in models:
            components += [self._answer(model), self._latency(model)]
            if model in self._pictured:
                components.append(self._picture(model))
        return self._device(GROUP, about, (state,), *components)

    def _answer(self, model: str) -> Component:
        """What the model last answered: its best class, all kinds of objects that it found, or its few numbers."""
        labels = "value_json.answer | map(attribute='label') | select | unique | join(', ') or 'nothing'"
        best = "value_json.answer[0].label or value_json.answer[0].index | string"
        numbers = "value_json.outputs | map(attribute='values') | select | sum(start=[]) | join(', ')"
        text = (
            f"({labels} if value_json.kind == 'boxes' else {best} if value_json.answer "
            f"else {numbers} if value_json.kind == 'tensors' else value_json.kind)"
        )
        attributes = (
            "{{ ({'ok': value_json.ok, 'request': value_json.request, 'latency_ms': value_json.latency_ms, "
            "'score': value_json.answer[0].score if value_json.answer else none, 'answer': value_json.answer, "
            "'error': value_json.error, 'reason': value_json.reason} if value_json is defined else {}) | tojson }}"
        )
        return _sensor(
            f"model-{model}-answer", f"{model} answer", self._topics.result(model),
            f"{text}[:{LONGEST}] if value_json.ok else none",
            json_attributes_topic=self._topics.result(model), json_attributes_template=attributes,
            icon="mdi:image-search",
        )  # fmt: skip

    def _picture(self, model: str) -> Component:
        return {
            "key": f"model-{model}-picture",
            "platform": "image",
            "name": f"{model} picture",
            "image_topic": self._topics.result_image(model),
            "content_type": "image/png",
        }

    def _latency(self, model: str) -> Component:
        mine = f"value_json.models | selectattr('name', 'eq', '{model}') | map(attribute='latency_ms')"
        return _sensor(
            f"model-{model}-latency", f"{model} latency", self._topics.orchestrator_metrics(),
            f"({mine} | select('number') | map('round', 1) | list or [none])[0]",
            device_class="duration", unit_of_measurement="ms", state_class="measurement",
        )  # fmt: skip


@functools.cache
def _version() -> str:
    return importlib.metadata.version("legion-iot")


def _sensor(key: str, name: str, topic: str, expression: str, **more: Any) -> Component:
    """A sensor whose value is the expression of the topic's JSON, as long as there is any."""
    return {
        "key": key,
        "platform": "sensor",
        "name": name,
        "state_topic": topic,
        "value_template": f"{{{{ {_of_json(expression)} }}}}",
        **more,
    }


def _of_json(expression: str) -> str:
    return f"({expression}) if value_json is defined else none"


def _state(topic: str, states: list[str]) -> Component:
    """What somebody says of itself; it says so when it is offline, too."""
    detail = f"{{{{ {{'detail': {_of_json('value_json.detail')}}} | tojson }}}}"
    return _sensor(
        "state", "State", topic, "value_json.state",
        device_class="enum", options=states, availability=[], icon="mdi:state-machine",
        json_attributes_topic=topic, json_attributes_template=detail,
    )  # fmt: skip


def _platforms(payload: bytes) -> dict[str, str]:
    """The platform of each component in a message of ours; none where it cannot be read."""
    try:
        components = json.loads(payload)["components"]
        return {str(key): str(component["platform"]) for key, component in components.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
