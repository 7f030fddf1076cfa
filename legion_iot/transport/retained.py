"""What a broker retains, read at once."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from legion_iot.transport.connection import BrokerAddress, Message, TransportEvent
from legion_iot.transport.paho import PahoConnection

OPEN_TIMEOUT = 10.0  # seconds


def read_retained(address: BrokerAddress, client_id: str, filters: Sequence[str]) -> list[Message]:
    """The retained messages that match, one for each topic; raises BrokerError.

    A broker hands over what is retained for one subscription before it answers the next, so none needs to be waited for
    in vain. At QoS 0: what is beyond the window of QoS 1 would come after that answer.
    """
    events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
    connection = PahoConnection(address, client_id, events.put)
    connection.open(OPEN_TIMEOUT)
    try:
        for _ in range(2):
            connection.subscribe([(each, 0) for each in filters])
    finally:
        connection.abort()
    found: dict[str, Message] = {}
    while not events.empty():
        event = events.get()
        if isinstance(event, Message):
            found[event.topic] = event
    return [message for message in found.values() if message.payload]
