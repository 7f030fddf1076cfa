"""The queue of an emulated device's link, in namespaces of the kernel's; needs root."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator

import pytest

from legion_iot.lab.namespaces import Network, remove_network, within
from legion_iot.lab.spec import Link
from legion_iot.transport.sockets import prefer

from .test_labs import needs_kernel

PACKETS = 150
PAYLOAD = b"x" * 1400
PATIENCE = 30.0  # seconds


@pytest.fixture
def network() -> Iterator[Network]:
    lab = secrets.token_hex(3)
    network = Network(lab)
    try:
        network.make()
        yield network
    finally:
        remove_network(lab)


@needs_kernel
def test_what_is_preferred_overtakes_what_waits_for_the_devices_own_link(network: Network) -> None:
    near = network.add(Link(2, 2))  # 150 packets take 0.8 s
    with within(network.hub):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind((network.hub_address, 0))
    with within(near):
        bulk, urgent = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    with receiver, bulk, urgent:
        prefer(urgent)
        receiver.settimeout(PATIENCE)
        bulk.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        bulk.sendto(b"first", receiver.getsockname())  # by now the address is known, and nothing waits for that
        assert receiver.recv(2000) == b"first"
        for _ in range(PACKETS):
            bulk.sendto(PAYLOAD, receiver.getsockname())
        urgent.sendto(b"urgent", receiver.getsockname())
        before = 0
        while receiver.recv(2000) != b"urgent":
            before += 1
    assert before < PACKETS / 2
