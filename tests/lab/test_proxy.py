"""A device's link that is cut, mended and delayed while it is in use."""

from __future__ import annotations

import socket
import time

from legion_iot.lab.proxy import Proxy
from legion_iot.lab.spec import Link

PATIENCE = 20.0  # seconds


def _ends(proxy: Proxy, server: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    device = socket.create_connection(("127.0.0.1", port), PATIENCE)
    broker, _ = server.accept()
    broker.settimeout(PATIENCE)
    return device, broker


def test_what_is_sent_over_a_cut_link_arrives_when_it_is_mended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        proxy = Proxy()
        (port,) = proxy.add(Link(), "127.0.0.1", [server.getsockname()])
        with proxy:
            device, broker = _ends(proxy, server, port)
            with device, broker:
                device.sendall(b"before")
                assert broker.recv(100) == b"before"
                proxy.change(port, cut=True)
                device.sendall(b"meanwhile")
                broker.sendall(b"back")
                for end in (broker, device):
                    end.settimeout(0.3)
                    try:
                        found = end.recv(100)
                    except TimeoutError:
                        found = b""
                    assert found == b""
                    end.settimeout(PATIENCE)
                proxy.change(port, cut=False)
                assert broker.recv(100) == b"meanwhile"
                assert device.recv(100) == b"back"


def test_a_link_may_get_another_delay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        proxy = Proxy()
        (port,) = proxy.add(Link(), "127.0.0.1", [server.getsockname()])
        with proxy:
            device, broker = _ends(proxy, server, port)
            with device, broker:
                proxy.change(port, delay=0.2)
                begun = time.monotonic()
                device.sendall(b"slow")
                assert broker.recv(100) == b"slow"
                assert time.monotonic() - begun >= 0.2
