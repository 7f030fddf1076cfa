"""Mosquitto as a child process: found, configured, started, stopped.

It is the broker of choice wherever its binary exists. Each run has a directory of its own with everything it reads; a
port is taken from the kernel first, and again when somebody else was faster.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from types import TracebackType

from legion_iot.errors import BrokerError, UsageError
from legion_iot.interruption import uninterrupted
from legion_iot.transport.connection import BrokerAddress, is_loopback
from legion_iot_broker.access import password_file
from legion_iot_broker.limits import DEFAULT_LIMITS, BrokerLimits

# Where distributions put it; the first two are often not on the PATH of a user who is not root.
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/sbin")
START_SECONDS = 10.0
STOP_SECONDS = 5.0
_PORT_TRIES = 5
_POLL_SECONDS = 0.02
_GRACE_SECONDS = 1.0
_IF_PARENT_LIVES = '[ "$PPID" = "$0" ] && exec "$@"'
_LOG_TAIL = 2_000
_KEPT = "persistence true\npersistence_location {}/\nautosave_interval 1"
# What glibc's malloc is told: keep what a feature map needed, instead of giving it back to the kernel after every piece
# and having each page cleared again. Measured: twice the bytes per second at QoS 0.
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}


def find_mosquitto() -> Path | None:
    """The Mosquitto binary on this machine, or None."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_PLACES))
    return Path(found) if found else None


def mosquitto_version(binary: Path) -> str:
    """What the binary says of itself, such as `2.0.11`; empty when it does not say."""
    try:
        said = subprocess.run([binary, "-h"], capture_output=True, text=True, timeout=START_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"mosquitto version (\S+)", said)
    return found.group(1) if found else ""


def mosquitto_processes(config: Path) -> list[int]:
    """The ids of the Mosquitto processes that were started with that configuration, by whomever.

    A file that holds the id would not do: a second one, which finds the ports taken, removes it when it gives up.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = [os.fsdecode(each) for each in (process / "cmdline").read_bytes().split(b"\0")]
            if Path(command[0]).name == "mosquitto" and "-c" in command[:-1]:
                given = Path(command[command.index("-c") + 1])
                place = given if given.is_absolute() else (process / "cwd").readlink() / given
                if os.path.normpath(place) == str(config):
                    found.append(int(process.name))
    return found


class MosquittoProcess:
    """One Mosquitto, alive inside `with`; `users` are clear passwords by name, `acl` is the text of an ACL file.

    With `certificate`, files of a certificate and its key in PEM, it speaks TLS and nothing else. Anonymous clients
    are accepted on loopback only, unless `anonymous` says so (an isolated network of a lab). What is `persistent`
    outlives `kill`, but for its last second.
    """

    def __init__(
        self,
        binary: Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        limits: BrokerLimits = DEFAULT_LIMITS,
        anonymous: bool | None = None,
        certificate: tuple[Path, Path] | None = None,
        persistent: bool = False,
    ) -> None:
        found = binary or find_mosquitto()
        if found is None:
            raise BrokerError("mosquitto is not installed: apt install mosquitto, or use the embedded broker")
        self._anonymous = users is None if anonymous is None else anonymous
        if self._anonymous and anonymous is None and not is_loopback(host):
            raise UsageError(f"a broker on {host} can be reached from outside: give it users and passwords")
        self._binary = found
        self._host = host
        self._port = port
        self._users = users
        self._acl = acl
        self._limits = limits
        self._certificate = certificate
        self._persistent = persistent
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> BrokerAddress:
        """Where it listens; the port is known after the start."""
        return BrokerAddress(self._host, self._port, tls=self._certificate is not None)

    @property
    def pid(self) -> int:
        """Its process id; raises `BrokerError` when it does not run."""
        if self._child is None:
            raise BrokerError("mosquitto is not running: start it first")
        return self._child.pid

    def start(self) -> BrokerAddress:
        """Start it and wait until it accepts; raises `BrokerError` with the end of its log when it does not."""
        if self._child is not None:
            raise BrokerError("mosquitto is running already: stop it first")
        with uninterrupted():
            self._directory = self._directory or tempfile.TemporaryDirectory(
                prefix="legion-mosquitto-", dir=_place_for_files()
            )
        try:
            tries = 1 if self._port else _PORT_TRIES
            for attempt in range(1, tries + 1):
                port = self._port or _free_port(self._host)
                if self._start_on(port, Path(self._directory.name)):
                    self._port = port
                    return self.address
                if attempt == tries:
                    raise BrokerError(f"mosquitto did not start on {self._host}:{port}: {self._log_tail()}")
        except BaseException:
            self.stop()
            raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def stop(self) -> None:
        """Stop it by its own pid, by force after a while, and remove its directory. Idempotent."""
        with uninterrupted():
            self._end_child()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def kill(self) -> None:
        """End it by force, without a word to anybody; `start` begins it again on the same port, `stop` tidies up."""
        with uninterrupted():
            child, self._child = self._child, None
            if child is not None:
                child.kill()
                child.wait(STOP_SECONDS)

    def __enter__(self) -> MosquittoProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on(self, port: int, directory: Path) -> bool:
        account = unprivileged_account()
        config = self._write(directory, port, account)
        with (directory / "mosquitto.log").open("wb") as log, uninterrupted():
            self._child = subprocess.Popen(
                [*child_prefix(account), str(self._binary), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | _MEMORY,
                # Ctrl-C in the terminal is for us: we stop it in order, after our own connections have closed.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        answered_at: float | None = None
        while (now := time.monotonic()) < deadline:
            if answered_at is None and _accepts(self._host, port):
                answered_at = now
            if self._child.poll() is not None:
                return False
            # Somebody else may have been faster on that port and answer in its place: ours says that it runs, or
            # (versions that do not say it) is still alive when it would have given up long ago.
            if answered_at is not None and (
                b" running" in (directory / "mosquitto.log").read_bytes() or now - answered_at > _GRACE_SECONDS
            ):
                return True
            time.sleep(_POLL_SECONDS)
        self._end_child()
        return False

    def _write(self, directory: Path, port: int, account: pwd.struct_passwd | None) -> Path:
        access = [f"allow_anonymous {'true' if self._anonymous else 'false'}"]
        files: dict[str, str] = {}
        if self._users is not None:
            files["passwords"] = password_file(self._users)
            access.append(f"password_file {directory / 'passwords'}")
        if self._acl is not None:
            files["acl"] = self._acl
            access.append(f"acl_file {directory / 'acl'}")
        if self._certificate is not None:
            for option, path in zip(("certfile", "keyfile"), self._certificate, strict=True):
                files[option] = path.read_text(encoding="ascii")
                access.append(f"{option} {directory / option}")
        template = resources.files("legion_iot_broker").joinpath("mosquitto.conf.template").read_text(encoding="utf-8")
        files["mosquitto.conf"] = Template(template).substitute(
            port=port,
            host=self._host,
            family="ipv6" if ":" in self._host else "ipv4",
            access="\n".join(access),
            persistence=_KEPT.format(directory / "data") if self._persistent else "persistence false",
            user_line=f"user {account.pw_name}" if account else "",
            max_packet_bytes=self._limits.packet_bytes,
            max_queued_bytes=self._limits.queue_bytes,
            max_clients=self._limits.clients,
        )
        for name, text in files.items():
            path = directory / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
        (directory / "data").mkdir(exist_ok=True)
        if account:  # The directory is private, so it must belong to whom Mosquitto becomes.
            for path in (directory, *directory.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        return directory / "mosquitto.conf"

    def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            end_child(child)

    def _log_tail(self) -> str:
        if self._directory is None:
            return "no log"
        text = (Path(self._directory.name) / "mosquitto.log").read_text(errors="replace")[-_LOG_TAIL:]
        return " | ".join(text.split("\n")).strip(" |") or "it said nothing"


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Stop a Mosquitto of our own: in order, or else by force."""
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(STOP_SECONDS)


def unprivileged_account() -> pwd.struct_passwd | None:
    """Whom Mosquitto shall become when we are root, as it would choose itself."""
    if os.geteuid() != 0:
        return None
    for name in ("mosquitto", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def child_prefix(account: pwd.struct_passwd | None) -> list[str]:
    """Let the kernel end the broker when we are killed, through setpriv(1): no code of ours between fork and exec.

    The signal follows the *thread* that started the child, so only the main thread may ask for it; and a change of
    user clears it, so setpriv makes that change first. Who is killed before setpriv has asked is followed by no
    signal: so a shell looks, after that, whether it still is our child.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    identity = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if account else []
    return [setpriv, *identity, "--pdeathsig", "TERM", "--", "sh", "-c", _IF_PARENT_LIVES, str(os.getpid())]


def _place_for_files() -> str | None:
    """A directory that Mosquitto can reach as the user it becomes when root starts it; None is the usual place."""
    if os.geteuid() != 0:
        return None
    for place in (tempfile.gettempdir(), "/tmp", "/run"):
        path = Path(place).resolve()
        if path.is_dir() and everybody_may_enter(path):
            return str(path)
    return None


def everybody_may_enter(path: Path) -> bool:
    """Whether any user can reach what lies in that directory, as far as those above it are concerned."""
    return all(each.stat().st_mode & stat.S_IXOTH for each in (path, *path.parents))


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
