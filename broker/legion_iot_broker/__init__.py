"""Brokers that legion-iot starts by itself: Mosquitto as a child process, or one inside this process."""

from __future__ import annotations

from legion_iot_broker.launch import RunningBroker, local_broker

__all__ = ["RunningBroker", "local_broker"]
