"""Starting and stopping brokers, and that none outlives its owner."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from legion_iot.bench.transport_tls import certificate
from legion_iot.errors import BrokerError
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot_broker import mosquitto as mosquitto_module
from legion_iot_broker.embedded import EmbeddedBroker
from legion_iot_broker.launch import local_broker
from legion_iot_broker.mosquitto import MosquittoProcess, find_mosquitto

from .conftest import Starter, require_mosquitto

PATIENCE = 20.0


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_dead(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive"
        time.sleep(0.01)


def test_it_accepts_while_it_runs_and_not_after(start_broker: Starter) -> None:
    with local_broker(start_broker.kind) as broker:  # type: ignore[arg-type]
        assert broker.kind == start_broker.kind
        assert broker.version[0].isdigit()
        connection = PahoConnection(broker.address, "a", lambda _: None)
        connection.open(PATIENCE)
        connection.close()
    with pytest.raises(BrokerError, match="nobody listens"):
        PahoConnection(broker.address, "a", lambda _: None).open(PATIENCE)


def test_mosquitto_over_tls_serves_whoever_trusts_it_and_nobody_else() -> None:
    require_mosquitto()
    with contextlib.ExitStack() as stack:
        with certificate() as files:
            broker = stack.enter_context(MosquittoProcess(certificate=files))
            connection = PahoConnection(broker.address, "a", lambda _: None)
            connection.open(PATIENCE)
            connection.close()
        with pytest.raises(BrokerError, match="another authority signed"):
            PahoConnection(broker.address, "a", lambda _: None).open(PATIENCE)


def test_auto_takes_mosquitto_where_it_exists() -> None:
    with local_broker() as broker:
        assert broker.kind == ("mosquitto" if find_mosquitto() else "embedded")


def test_auto_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(mosquitto_module, "_PLACES", ())
    with local_broker() as broker:
        assert broker.kind == "embedded"
    with pytest.raises(BrokerError, match="not installed"), local_broker("mosquitto"):
        pass
    with pytest.raises(BrokerError, match="not installed"):
        MosquittoProcess()


def test_a_port_in_use_is_named(start_broker: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BrokerError, match=str(port)),
            local_broker(start_broker.kind, port=port),  # type: ignore[arg-type]
        ):
            pass


def test_a_lost_race_for_a_port_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    require_mosquitto()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = mosquitto_module._free_port("127.0.0.1")
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(mosquitto_module, "_free_port", lambda _: next(ports))
        with MosquittoProcess() as broker:
            assert broker.address.port == free


def test_nothing_is_left_behind() -> None:
    require_mosquitto()
    broker = MosquittoProcess(users={"a": "b"})
    broker.start()
    pid = broker.pid
    assert broker._directory is not None
    directory = Path(broker._directory.name)
    assert directory.stat().st_mode & 0o077 == 0
    broker.stop()
    broker.stop()
    assert not alive(pid)
    assert not directory.exists()


def test_mosquitto_dies_with_a_parent_that_is_killed() -> None:
    require_mosquitto()
    if mosquitto_module.shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    code = (
        "from legion_iot_broker.mosquitto import MosquittoProcess\n"
        "import sys\n"
        "broker = MosquittoProcess(); broker.start(); print(broker.pid, flush=True); sys.stdin.read()\n"
    )
    with tempfile.TemporaryDirectory() as directory:  # a killed parent leaves its files
        Path(directory).chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": directory}
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            assert alive(pid)
            parent.kill()
        until_dead(pid)


def test_a_child_whose_parent_is_killed_before_it_asks_for_a_signal_ends_too(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    slow = tmp_path / "setpriv"
    slow.write_text(f'#!/bin/sh\nwhile [ -d "/proc/$STARTER" ]; do sleep 0.01; done\nexec {setpriv} "$@"\n')
    slow.chmod(0o755)
    code = (
        "import os, signal, subprocess\n"
        "from legion_iot_broker.mosquitto import child_prefix\n"
        "os.environ['STARTER'] = str(os.getpid())\n"
        "child = subprocess.Popen([*child_prefix(None), 'sleep', '60'], stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": path}
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, check=False)
    assert parent.returncode == -signal.SIGKILL
    until_dead(int(parent.stdout))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's Mosquitto becomes another user")
def test_a_private_temporary_directory_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_mosquitto()
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with MosquittoProcess() as broker:
        assert alive(broker.pid)


def test_the_embedded_broker_runs_as_a_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "legion_iot_broker.embedded", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().removeprefix("listening on ").strip().rpartition(":")
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    missing = subprocess.run(
        [*command, "--acl-file", str(tmp_path / "none")], capture_output=True, text=True, env=environment, check=False
    )
    assert missing.returncode == 3
    assert "cannot read" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


def test_a_client_that_has_gone_before_its_socket_is_set_up_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client has reset the connection, macOS refuses options of its socket; Linux does not."""
    setsockopt, gone = socket.socket.setsockopt, threading.Event()

    def refuse_once(sock: socket.socket, *arguments: int) -> None:
        if threading.current_thread().name.startswith("mqtt-broker") and not gone.is_set():
            gone.set()
            raise OSError(errno.EINVAL, "Invalid argument")
        setsockopt(sock, *arguments)

    with EmbeddedBroker() as broker:
        monkeypatch.setattr(socket.socket, "setsockopt", refuse_once)
        with socket.create_connection((broker.address.host, broker.address.port), PATIENCE) as client:
            assert client.recv(1) == b""
        other = PahoConnection(broker.address, "other", lambda _: None)
        other.open(PATIENCE)
        other.close()
    assert gone.is_set()


def test_it_can_be_started_again() -> None:
    broker = EmbeddedBroker()
    port = broker.start()
    with pytest.raises(BrokerError, match="running already"):
        broker.start()
    broker.stop()
    broker.stop()
    assert broker.start() == port
    broker.stop()


def until_saved(broker: MosquittoProcess, topic: bytes) -> None:
    assert broker._directory is not None
    saved = Path(broker._directory.name) / "data" / "mosquitto.db"
    deadline = time.monotonic() + PATIENCE
    while not saved.is_file() or topic not in saved.read_bytes():
        assert time.monotonic() < deadline, "nothing is saved"
        time.sleep(0.05)


@pytest.mark.parametrize("persistent", [False, True])
def test_a_killed_mosquitto_comes_back_where_it_was(persistent: bool) -> None:
    require_mosquitto()
    with MosquittoProcess(persistent=persistent) as broker:
        address = broker.address
        first = PahoConnection(address, "first", lambda event: None)
        first.open(PATIENCE)
        first.publish("kept/here", b"for ever", retain=True)
        assert first.flush(PATIENCE)
        first.close()
        if persistent:  # it saves once a second
            until_saved(broker, b"kept/here")
        pid = broker.pid
        broker.kill()
        until_dead(pid)
        assert broker.start() == address
        found = read_retained(address, "second", ["kept/#"])
        assert [message.payload for message in found] == ([b"for ever"] if persistent else [])
