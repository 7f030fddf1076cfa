"""A group's broker in one directory: made whole or not at all, and changed so that a crash leaves it safe.

    broker.json      settings
    private/         the authority's key and the roll, for nobody but whom they were made by
    mosquitto/       what Mosquitto reads: server certificate and key, revoked certificates, passwords, access rules
    data/            what Mosquitto keeps
    conf.d/          the owner's own additions to mosquitto.conf
    mosquitto.conf

`broker.json` and `private/` are the truth. What Mosquitto reads is written from them anew by each change, file by file,
each replaced in one step: a change that was cut short is completed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from legion_iot.errors import BrokerError, InputError, UsageError
from legion_iot.files import create_file, replace_file
from legion_iot.interruption import temporary_directory
from legion_iot.transport.credentials import bundle_text
from legion_iot.wire.access import check_member
from legion_iot.wire.topics import Topics
from legion_iot_broker import rendering
from legion_iot_broker.access import hash_password
from legion_iot_broker.farewell import last_words, say
from legion_iot_broker.hosts import LOOPBACK, own_hosts
from legion_iot_broker.mosquitto import everybody_may_enter, mosquitto_processes, unprivileged_account
from legion_iot_broker.records import (
    Member,
    Roll,
    Settings,
    moment,
    read_roll,
    read_settings,
    roll_text,
    settings_text,
    timestamp,
)

if TYPE_CHECKING:
    from datetime import datetime

    from legion_iot_broker.authority import Authority

MOST_MEMBERS = 10_000  # ever let in, those removed included: revoked certificates stay on their list
_PASSWORD_BYTES = 32
_SAME_USER = "run it as who ran `legion broker init`"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asks of a new broker; None and nothing leave the choice to us."""

    hosts: tuple[str, ...] = ()
    base_topic: str | None = None
    port: int | None = None
    local_port: int | None = None
    websockets_port: int | None = None

    def settings(self) -> Settings:
        """The settings that follow, with the names this machine knows of itself where none are given."""
        hosts = tuple(dict.fromkeys((*(self.hosts or own_hosts()), *LOOPBACK)))
        given = ("base_topic", "port", "local_port", "websockets_port")
        return Settings(hosts, **{key: getattr(self, key) for key in given if getattr(self, key) is not None})

    def agrees_with(self, settings: Settings) -> bool:
        """Whether a broker with these settings is what is asked for."""
        given = ("base_topic", "port", "local_port", "websockets_port")
        return set(self.hosts) <= set(settings.hosts) and all(
            getattr(self, key) in (None, getattr(settings, key)) for key in given
        )


@dataclass(frozen=True, slots=True)
class BrokerDirectory:
    """A directory that `create` has made; the path is absolute."""

    path: Path
    settings: Settings

    @classmethod
    def open(cls, path: Path) -> BrokerDirectory:
        """The one at that path; raises InputError where there is none."""
        path = path.absolute()
        if not os.path.isfile(path / "broker.json"):  # where we may not look, pathlib's raises
            raise InputError(f"{path}: no broker's directory; make one with: legion broker init {path}")
        return cls(path, read_settings(path / "broker.json"))

    @property
    def config(self) -> Path:
        return self.path / "mosquitto.conf"

    @property
    def passwords(self) -> Path:
        return self.path / "mosquitto" / "passwords"

    @property
    def access_rules(self) -> Path:
        return self.path / "mosquitto" / "acl"

    @property
    def roll(self) -> Roll:
        """Who was let in; raises InputError."""
        return read_roll(self.path / "private" / "members.json")

    # --- changes ---

    def add(self, name: str, role: str, out: Path, days: int, now: datetime) -> Member:
        """Let a member in and write its bundle; raises UsageError or InputError, and has changed nothing then."""
        check_member(role, name)
        if days < 1:
            raise UsageError(f"--days is {days}; give 1 or more")
        with self._changing():
            roll = self.roll
            if roll.find(name) is not None:
                raise UsageError(f"there is a {name!r} already: choose another name, or remove that one first")
            if len(roll.members) >= MOST_MEMBERS:
                raise UsageError(f"{MOST_MEMBERS} members were let in here, which is the most there can be")
            authority = self._authority()
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            issued = authority.member(name, now, days)
            member = Member(
                name, role, f"{issued.serial:x}", timestamp(now), timestamp(issued.expires), hash_password(password)
            )
            head = {
                "name": name,
                "role": role,
                "broker": self.url,
                "base-topic": self.settings.base_topic,
                "password": password,
            }
            # The bundle first: it opens nothing until its member is on the roll.
            _create(out, bundle_text(head, issued.certificate, issued.key, authority.certificate))
            try:
                self._record(Roll((*roll.members, member)), authority, now)
            except BaseException:
                out.unlink(missing_ok=True)
                raise
        return member

    def remove(self, name: str, now: datetime) -> bool:
        """Take back a member's certificate, password and rights, and cut it off from a broker that runs here.

        Returns whether one runs and did so. Raises UsageError where there is no such member, BrokerError where one runs
        that could not be told.
        """
        with self._changing():
            roll = self.roll
            found = roll.find(name)
            if found is None:
                known = ", ".join(member.name for member in roll.present) or "nobody"
                raise UsageError(f"there is no member {name!r}; let in: {known}")
            gone = replace(found, password_hash="", removed=timestamp(now))
            left = Roll(tuple(gone if member is found else member for member in roll.members))
            # Out of the roll and revoked, but for a moment with a password that only we know (see `farewell`).
            password = secrets.token_urlsafe(_PASSWORD_BYTES)
            parting = replace(found, password_hash=hash_password(password))
            self._record(left, self._authority(), now, parting)
            try:
                self.reload()
                words = last_words(check_member(found.role, name), name, Topics(self.settings.base_topic))
                return say(self.settings.local_port, name, password, words)
            finally:
                _write_rules(self.path, self, left)
                self.reload()

    def refresh(self) -> None:
        """Write anew what Mosquitto reads, as this version of legion-iot wants it and wherever the directory is now."""
        with self._changing():
            _write_rules(self.path, self, self.roll)

    def without_websockets(self) -> BrokerDirectory:
        """The same one, for a Mosquitto that was built without them."""
        return replace(self, settings=replace(self.settings, websockets_port=0))

    def reload(self) -> bool:
        """Make a Mosquitto that runs on this directory read it again; false where none does. Raises BrokerError."""
        running = mosquitto_processes(self.config)
        try:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)
        except PermissionError as error:
            raise BrokerError(f"the running Mosquitto could not be told: {_SAME_USER}, or send it SIGHUP") from error
        return bool(running)

    @property
    def url(self) -> str:
        """Where members find the broker."""
        host = self.settings.hosts[0]
        return f"mqtts://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    def _record(self, roll: Roll, authority: Authority, now: datetime, parting: Member | None = None) -> None:
        # The roll first: whatever is cut off behind it is written by the next change.
        replace_file(self.path / "private" / "members.json", roll_text(roll).encode(), 0o600)
        _write_revoked(self.path, roll, authority, now)
        _write_rules(self.path, self, Roll((*roll.members, parting)) if parting else roll)

    def _authority(self) -> Authority:
        private = self.path / "private"
        return _authority_class().load((private / "ca.crt").read_bytes(), (private / "ca.key").read_bytes())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time; raises InputError for what the operating system refuses."""
        lock = -1
        try:
            lock = os.open(self.path / "private" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        except PermissionError as error:
            raise InputError(f"{self.path}: cannot be changed ({error.strerror}); {_SAME_USER}") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be changed ({error.strerror}); then run the same again") from error
        finally:
            if lock >= 0:
                os.close(lock)


def initialise(path: Path, wanted: Wanted, now: datetime) -> tuple[BrokerDirectory, bool]:
    """The broker's directory at `path`, and whether it is new; one that is there already is kept as it is.

    Raises UsageError or InputError, also where the one that is there is another one than what is asked for.
    """
    if os.path.isfile(path / "broker.json"):
        found = BrokerDirectory.open(path)
        if not wanted.agrees_with(found.settings):
            raise UsageError(f"{path} is a broker with other settings ({found.url}); choose another directory")
        found.refresh()
        return found, False
    return create(path, wanted.settings(), now), True


def create(path: Path, settings: Settings, now: datetime) -> BrokerDirectory:
    """Make a new broker's directory, whole or not at all; raises UsageError or InputError.

    It is built beside its place and then renamed: what a crash leaves does not look like one.
    """
    path = path.absolute()
    _check(path, settings)
    authority = _authority_class().create(now)
    server = authority.server(settings.hosts, now)
    made = BrokerDirectory(path, settings)
    account = unprivileged_account()
    try:
        with temporary_directory(f".{path.name}-", path.parent) as temporary:
            new = temporary / "new"
            for name, mode in (
                ("", 0o755),
                ("private", 0o700),
                ("mosquitto", 0o700),
                ("data", 0o700),
                ("conf.d", 0o755),
            ):
                (new / name).mkdir()
                (new / name).chmod(mode)
                if account is not None and name in ("mosquitto", "data"):
                    os.chown(new / name, account.pw_uid, account.pw_gid)
            replace_file(new / "private" / "ca.key", authority.key, 0o600)
            replace_file(new / "private" / "ca.crt", authority.certificate, 0o644)
            replace_file(new / "private" / "members.json", roll_text(Roll()).encode(), 0o600)
            replace_file(new / "mosquitto" / "ca.crt", authority.certificate, 0o644, account)
            replace_file(new / "mosquitto" / "server.crt", server.certificate, 0o644, account)
            replace_file(new / "mosquitto" / "server.key", server.key, 0o600, account)
            _write_revoked(new, Roll(), authority, now)
            _write_rules(new, made, Roll())
            replace_file(new / "broker.json", settings_text(settings).encode(), 0o644)
            os.rename(new, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); nothing was left behind") from error
    return made


def _write_rules(target: Path, directory: BrokerDirectory, roll: Roll) -> None:
    """Configuration, access rules and passwords of that directory, while it is still being made at `target`."""
    account, settings = unprivileged_account(), directory.settings
    rules = rendering.access_rules(roll, settings.base_topic)
    replace_file(target / "mosquitto" / "acl", rules.encode(), 0o600, account)
    replace_file(target / "mosquitto" / "passwords", rendering.passwords(roll).encode(), 0o600, account)
    config = rendering.configuration(directory.path, settings, account)
    replace_file(target / "mosquitto.conf", config.encode(), 0o644)


def _write_revoked(target: Path, roll: Roll, authority: Authority, now: datetime) -> None:
    revoked = {member.serial_number: moment(member.removed) for member in roll.removed}
    content = authority.revocations(revoked, now)
    replace_file(target / "mosquitto" / "revoked.pem", content, 0o600, unprivileged_account())


def _check(path: Path, settings: Settings) -> None:
    Topics(settings.base_topic)
    if not str(path).isprintable():
        raise UsageError("the directory's path has control characters, which Mosquitto's configuration cannot hold")
    ports = [port for port in (settings.port, settings.local_port, settings.websockets_port) if port]
    if len(set(ports)) < len(ports) or len(ports) < 2 or not all(0 < port < 65_536 for port in ports):
        raise UsageError(f"the ports {', '.join(map(str, ports))} cannot be: give different ones from 1 to 65535")
    if not os.path.isdir(path.parent):
        raise InputError(f"{path.parent}: no such directory, or closed to you; make it first")
    if unprivileged_account() is not None and not everybody_may_enter(path.parent.resolve()):
        raise UsageError(f"{path.parent} is closed to the user that Mosquitto becomes; choose a place below /var/lib")
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise InputError(f"{path}: cannot be looked into ({error.strerror}); choose another place") from error
    if taken:
        raise InputError(f"{path}: something is there already; choose a new or an empty directory")


def _create(out: Path, text: str) -> None:
    try:
        create_file(out, text.encode(), 0o600)
    except FileExistsError as error:
        raise InputError(f"{out}: exists already; choose another place (--out)") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another place (--out)") from error


def _authority_class() -> type[Authority]:
    # Imported where it is needed: what runs a broker does without it.
    try:
        from legion_iot_broker.authority import Authority  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("certificates need the package cryptography: pip install 'legion-iot[broker]'") from error
    return Authority
