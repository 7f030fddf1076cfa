"""Every limit of the brokers we start, in one place; both kinds keep the ones they share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """Bytes and counts of one broker; seconds where the name says so."""

    packet_bytes: int = 32 << 20
    clients: int = 1024
    # Per client: what waits to be written, or to be acknowledged.
    queue_bytes: int = 64 << 20
    queue_messages: int = 10_000
    in_flight: int = 64
    retained_messages: int = 10_000
    retained_bytes: int = 64 << 20
    # Of the whole broker; Mosquitto only, and only where it serves a group.
    memory_bytes: int = 512 << 20
    subscriptions_per_client: int = 1_000
    # Before a client said who it is: five fields of 64 KB are the most that a CONNECT can hold.
    connect_bytes: int = 384 << 10
    connect_seconds: float = 10.0


DEFAULT_LIMITS = BrokerLimits()
