"""Home Assistant, as far as its documents say what it takes: a schema of discovery messages, and its templates.

The schema says what https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, …/sensor.mqtt/,
…/button.mqtt/ and …/sensor/#device-class ask for, and for what Home Assistant 2025.4 refuses: it takes a whole device
or nothing of it, and shows no error but a line in its log.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema
from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

_TEXT = {"type": "string", "minLength": 1}
_TOPIC = {"type": "string", "pattern": "^[^+#\\x00]+$", "maxLength": 65535}
_URL = {"type": "string", "pattern": "^(https?|homeassistant)://"}
_AVAILABILITY = {
    "availability": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "topic": _TOPIC,
                "value_template": _TEXT,
                "payload_available": _TEXT,
                "payload_not_available": _TEXT,
            },
            "required": ["topic"],
            "additionalProperties": False,
        },
    },
    "availability_mode": {"enum": ["all", "any", "latest"]},
}
_ENTITY = {
    **_AVAILABILITY,
    "platform": _TEXT,
    "name": _TEXT,
    "unique_id": _TEXT,
    "icon": {"type": "string", "pattern": "^mdi:[a-z0-9-]+$"},
    "qos": {"enum": [0, 1, 2]},
    "json_attributes_topic": _TOPIC,
    "json_attributes_template": _TEXT,
    "enabled_by_default": {"type": "boolean"},
}
_UNITS = {
    "temperature": ["°C", "°F", "K"],
    "duration": ["d", "h", "min", "s", "ms"],
    "data_size": ["bit", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"],
}
_SENSOR = {
    "properties": {
        **_ENTITY,
        "platform": {"const": "sensor"},
        "state_topic": _TOPIC,
        "value_template": _TEXT,
        "entity_category": {"const": "diagnostic"},  # a sensor cannot be one that configures
        "device_class": {"enum": [*_UNITS, "enum"]},
        "state_class": {"enum": ["measurement", "total", "total_increasing"]},
        "unit_of_measurement": _TEXT,
        "options": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
    },
    "required": ["state_topic", "unique_id", "name"],
    "additionalProperties": False,
    "dependentRequired": {"json_attributes_template": ["json_attributes_topic"]},
    "allOf": [
        *(
            {
                "if": {"properties": {"device_class": {"const": kind}}, "required": ["device_class"]},
                "then": {"properties": {"unit_of_measurement": {"enum": units}}, "required": ["unit_of_measurement"]},
            }
            for kind, units in _UNITS.items()
        ),
        {
            "if": {"properties": {"device_class": {"const": "enum"}}, "required": ["device_class"]},
            "then": {"required": ["options"], "properties": {"state_class": False, "unit_of_measurement": False}},
            "else": {"properties": {"options": False}},
        },
    ],
}
_BUTTON = {
    "properties": {
        **_ENTITY,
        "platform": {"const": "button"},
        "command_topic": _TOPIC,
        "payload_press": _TEXT,
        "entity_category": {"enum": ["config", "diagnostic"]},
    },
    "required": ["command_topic", "unique_id", "name"],
    "additionalProperties": False,
}
_IMAGE = {
    "properties": {
        **_ENTITY,
        "platform": {"const": "image"},
        "image_topic": _TOPIC,
        "content_type": {"enum": ["image/png", "image/jpeg"]},
    },
    "required": ["image_topic", "unique_id", "name"],
    "additionalProperties": False,
}
_ABOUT = (
    "name", "manufacturer", "model", "model_id", "hw_version", "sw_version", "serial_number", "via_device",
    "suggested_area",
)  # fmt: skip
_REMOVED = {"properties": {"platform": _TEXT}, "required": ["platform"], "additionalProperties": False}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        **_AVAILABILITY,
        "device": {
            "type": "object",
            "properties": {
                "identifiers": {"type": "array", "items": _TEXT, "minItems": 1},
                **dict.fromkeys(_ABOUT, _TEXT),
                "configuration_url": _URL,
            },
            "required": ["identifiers"],
            "additionalProperties": False,
        },
        "origin": {
            "type": "object",
            "properties": {"name": _TEXT, "sw_version": _TEXT, "support_url": _URL},
            "required": ["name"],
            "additionalProperties": False,
        },
        "components": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "object", "anyOf": [_REMOVED, _SENSOR, _BUTTON, _IMAGE]},
        },
        "qos": {"enum": [0, 1, 2]},
    },
    "required": ["device", "origin", "components"],
    "additionalProperties": False,
}
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
_TEMPLATES = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def read_device(payload: bytes) -> dict[str, Any]:
    """A discovery message, when Home Assistant would take it."""
    message: dict[str, Any] = json.loads(payload)
    _VALIDATOR.validate(message)
    return message


def render(template: str, payload: bytes, **more: Any) -> str:
    """What a template makes of a message; what is not defined is an error, other than in Home Assistant."""
    variables: dict[str, Any] = {"value": payload.decode(), **more}
    if payload:
        variables["value_json"] = json.loads(payload)
    return _compiled(template).render(variables)


@functools.cache
def _compiled(template: str) -> Template:
    return _TEMPLATES.from_string(template)


def state_of(component: dict[str, Any], payload: bytes) -> str | None:
    """The state that a sensor takes from a message; None is unknown."""
    rendered = render(component["value_template"], payload)
    assert len(rendered) <= 255
    assert "options" not in component or rendered in (*component["options"], "None")
    return None if rendered == "None" else rendered


def is_available(message: dict[str, Any], component: dict[str, Any], payloads: dict[str, bytes]) -> bool:
    """Whether a component is available when these payloads have come, by topic."""
    merged = {"availability_mode": "latest", **{key: message[key] for key in _AVAILABILITY if key in message}}
    merged |= {key: component[key] for key in _AVAILABILITY if key in component}
    assert merged["availability_mode"] == "all" or not merged.get("availability")
    said = []
    for each in merged.get("availability", []):
        payload = payloads.get(each["topic"])
        said.append(payload is not None and render(each["value_template"], payload) == "online")
    return all(said)
