"""The page's server over a broker, and what reads it: a websocket client, node, a browser."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from legion_iot.page.live import LivePage
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.listening import ListenAddress

PATIENCE = 60.0  # seconds; bounds a failing test, a passing one never waits for it
HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "legion_iot" / "page" / "static"


@contextlib.contextmanager
def live_page(broker: BrokerAddress, base_topic: str = "legion", names: tuple[str, ...] = ()) -> Iterator[str]:
    """A page on a port of its own: its URL."""
    said: list[str] = []
    page = LivePage(ListenAddress("127.0.0.1", 0), names, broker, base_topic, said.append)
    page.start()
    try:
        yield said[0].split()[-1]
    finally:
        page.close()


def fetch(url: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A GET: status, headers in lower case, content."""
    place = urlsplit(url)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def node() -> list[str]:
    """Node with websockets; skips where there is none."""
    found = shutil.which("node")
    option = "--experimental-websocket"
    if (
        found is None
        or option not in subprocess.run([found, "--help"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip("there is no node that knows websockets; the browser's test runs the same files")
    return [found, option, "--no-warnings"]


def require(*programs: str) -> None:
    """Skip without them on a developer's machine; fail in CI, where they must be installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"{', '.join(missing)} is missing, and CI may not skip its tests")
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
