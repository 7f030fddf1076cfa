"""The only place that speaks MQTT: a connection with events, over paho or inside this process."""

from __future__ import annotations

from legion_iot.transport.connection import (
    BrokerAddress,
    Connected,
    Connection,
    Disconnected,
    Message,
    QueueLimits,
    Refused,
    TransportEvent,
    Will,
)

__all__ = [
    "BrokerAddress",
    "Connected",
    "Connection",
    "Disconnected",
    "Message",
    "QueueLimits",
    "Refused",
    "TransportEvent",
    "Will",
]
