"""What a broker's owner says in the place of a member that was removed.

A Mosquitto that is told to read its files again cuts the links of those whose password has changed, and publishes none
of their wills. So whoever removes a member gives it a password that nobody knows, connects with that, and says goodbye
on the member's own topics. That it is let in is also the proof that the files have been read.
"""

from __future__ import annotations

import secrets
import time

from legion_iot.errors import BrokerError, PasswordRefusedError
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.paho import PahoConnection
from legion_iot.wire import codec
from legion_iot.wire.access import Role
from legion_iot.wire.messages import AgentState, OrchestratorState
from legion_iot.wire.topics import Topics

_SECONDS = 5.0
_POLL_SECONDS = 0.1


def last_words(role: Role, name: str, topics: Topics) -> list[tuple[str, bytes]]:
    """Retained messages, in order: that an agent or orchestrator is gone, and nothing of what an agent had retained.

    An agent's end counts for the session it had announced, so it announces one first.
    """
    if role == "agent":
        session = secrets.token_hex(16)
        state = topics.agent(name, "state")
        said = [(state, codec.to_json(AgentState(each, session))) for each in ("online", "offline")]
        return [*said, *((topics.agent(name, kind), b"") for kind in ("info", "metrics", "profile", "state"))]
    if role == "orchestrator":
        return [(topics.orchestrator_state(), codec.to_json(OrchestratorState("offline", "")))]
    return []


def say(port: int, name: str, password: str, words: list[tuple[str, bytes]]) -> bool:
    """Say it on this machine's broker as that member; false where nobody listens.

    Raises BrokerError where a broker has not read its files again within a few seconds.
    """
    address = BrokerAddress("127.0.0.1", port, name, password)
    connection = PahoConnection(address, f"farewell-{name}", lambda event: None)
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            connection.open(_SECONDS)
            break
        except PasswordRefusedError as error:  # it has not read the password yet
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"{name} is removed, but the broker at {address.endpoint} did not notice: start it again"
                ) from error
            time.sleep(_POLL_SECONDS)
        except BrokerError:
            return False
    for topic, payload in words:
        connection.publish(topic, payload, retain=True)
    said = connection.flush(_SECONDS)
    connection.close()
    return said
