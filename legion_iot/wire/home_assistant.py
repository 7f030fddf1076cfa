"""Where Home Assistant's MQTT discovery looks for devices: its topics, beside those of the protocol.

A group has one level of its own there, made of its base topic, so that access rules can give it that and no more.
Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery, "Discovery topic", "Birth and last will
messages".
"""

from __future__ import annotations

from dataclasses import dataclass

from legion_iot.errors import UsageError
from legion_iot.wire.topics import Topics

DEFAULT_PREFIX = "homeassistant"
BIRTH = b"online"  # what Home Assistant says on its status topic when it has started
GROUP = "group"
_AGENT = "agent-"


@dataclass(frozen=True, slots=True)
class DiscoveryTopics:
    """Of the group with that base topic; `prefix` is Home Assistant's. Raises UsageError where that cannot be."""

    base: str
    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        check_prefix(self.prefix)

    @property
    def node(self) -> str:
        """The group's level: the base topic in the characters that discovery takes, another one for each."""
        return self.base.replace("_", "__").replace("/", "_-")

    def device(self, name: str) -> str:
        """Where a device's discovery message is retained; a filter for all of them where the name is `+`."""
        return f"{self.prefix}/device/{self.node}/{name}/config"

    def status(self) -> str:
        """Where Home Assistant tells that it has started."""
        return f"{self.prefix}/status"

    def name_in(self, topic: str) -> str:
        """The name of the device whose message is retained on that topic, one of `device`."""
        return topic.split("/")[-2]


def check_prefix(prefix: str) -> str:
    """The prefix, when it is one; raises UsageError."""
    try:
        Topics(prefix)
    except UsageError:
        raise UsageError(
            f"{prefix!r:.60} cannot be a discovery prefix; use levels of letters, digits, '_' and '-'"
        ) from None
    return prefix


def agent_device(agent: str) -> str:
    """The name of an agent's device."""
    return f"{_AGENT}{agent}"


def agent_of(name: str) -> str:
    """The agent whose device has that name, or an empty text where it is not an agent's."""
    return name.removeprefix(_AGENT) if name.startswith(_AGENT) else ""
