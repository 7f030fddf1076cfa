"""What paho leaves to the loop that drives it: packets that came together, and a socket that is closed meanwhile."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

from legion_iot.transport.client import LeanClient
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.paho import PahoConnection

PATIENCE = 20.0
CONNACK = bytes((0x20, 3, 0, 0, 0))
PUBLISH, SUBSCRIBE = 3, 8


def packet(sock: socket.socket) -> tuple[int, bytes]:
    """The type and the rest of the next packet, which is a short one."""
    kind, length = sock.recv(2, socket.MSG_WAITALL)
    return kind >> 4, sock.recv(length, socket.MSG_WAITALL)


def acknowledge_together(sock: socket.socket) -> None:
    """Take a connection's message and its subscription, and answer both in one segment."""
    packet(sock)
    sock.sendall(CONNACK)
    answers = {}
    while len(answers) < 2:
        kind, rest = packet(sock)
        if kind == PUBLISH:
            topic = int.from_bytes(rest[:2], "big")
            answers[kind] = bytes((0x40, 2)) + rest[2 + topic : 4 + topic]
        elif kind == SUBSCRIBE:
            answers[kind] = bytes((0x90, 4)) + rest[:2] + b"\0\0"
    sock.sendall(answers[PUBLISH] + answers[SUBSCRIBE])


def test_answers_that_come_together_are_all_taken_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        address = BrokerAddress("127.0.0.1", server.getsockname()[1])
        accepted: list[socket.socket] = []

        def serve() -> None:
            accepted.append(server.accept()[0])
            accepted[0].settimeout(PATIENCE)
            acknowledge_together(accepted[0])

        broker = threading.Thread(target=serve)
        broker.start()
        try:
            with closing(PahoConnection(address, "ant", lambda event: None)) as connection:
                connection.open(PATIENCE)
                connection.publish("a", b"", qos=1)
                connection.subscribe([("b", 1)])  # raises BrokerError where its answer is not taken in
                assert connection.flush(PATIENCE)
        finally:
            broker.join()
            for sock in accepted:
                sock.close()


def test_a_round_on_a_socket_that_is_closed_is_the_end_of_the_link() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = LeanClient("ant", lambda client, packet: None, lambda: None)
        client.connect("127.0.0.1", server.getsockname()[1])
        sock = client.socket()
        assert sock is not None
        sock.close()
        assert client.loop(0.1) != 0
