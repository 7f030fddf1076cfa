"""Who may connect and who may read or write what, in Mosquitto's own file formats.

One pair of texts serves both brokers. A password file holds `user:$7$iterations$salt$hash` (PBKDF2-HMAC-SHA512). An ACL
file holds `user NAME`, then `topic [read|write|readwrite|deny] FILTER` for that user, and `pattern …` lines for all,
where `%u` stands for the user and `%c` for the client id. What no line allows is denied; `deny` wins over the rest.
As in Mosquitto, reading is judged when a message is delivered, not when a filter is subscribed to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from legion_iot.errors import UsageError
from legion_iot.transport.matching import is_topic_filter, matches
from legion_iot.wire.access import Access, Grant

# Each connection costs one hash on the broker's only thread: under 1 ms. Mosquitto's own default is 101.
HASH_ITERATIONS = 1_000
# A password file may not make the broker spend seconds on each connection.
MAX_ITERATIONS = 1_000_000
_SALT_BYTES = 12


def hash_password(password: str) -> str:
    """The `$7$…` form of a password, with a fresh salt, as `mosquitto_passwd` writes it."""
    salt = os.urandom(_SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, HASH_ITERATIONS)
    return f"$7${HASH_ITERATIONS}${_base64(salt)}${_base64(digest)}"


def password_file(users: Mapping[str, str]) -> str:
    """A password file for these users and clear passwords; raises `UsageError` on a name it cannot hold."""
    for user in users:
        if not _is_user_name(user):
            raise UsageError(f"user name {user!r} cannot be used: leave out : / + # and control characters")
    return "".join(f"{user}:{hash_password(password)}\n" for user, password in users.items())


def acl_file(members: Iterable[tuple[str, Iterable[Grant]]]) -> str:
    """An ACL file for users and what each is granted; what no line grants is denied."""
    lines = ["# Written by legion-iot from legion_iot/wire/access.py. What no line allows is denied."]
    for user, granted in members:
        lines += ["", f"user {user}", *(f"topic {grant.access} {grant.filter}" for grant in granted)]
    return "\n".join(lines) + "\n"


class Users:
    """A password file, read."""

    def __init__(self, text: str) -> None:
        self._hashes: dict[str, tuple[int, bytes, bytes]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, _, encoded = line.strip().partition(":")
            try:
                empty, kind, iterations, salt, digest = encoded.split("$")
                parsed = (
                    int(iterations),
                    base64.b64decode(salt, validate=True),
                    base64.b64decode(digest, validate=True),
                )
            except (ValueError, binascii.Error) as error:
                raise UsageError(
                    f"password file, line {number}: not user:$7$…; write it with mosquitto_passwd"
                ) from error
            if empty or kind != "7" or not 0 < parsed[0] <= MAX_ITERATIONS or not _is_user_name(user):
                raise UsageError(f"password file, line {number}: not user:$7$…; write it with mosquitto_passwd")
            self._hashes[user] = parsed

    def keeps(self, user: str, other: Users) -> bool:
        """Whether that user has the same password in another file."""
        return user in self._hashes and self._hashes[user] == other._hashes.get(user)

    def accepts(self, user: str, password: bytes) -> bool:
        """Whether the password is that user's; an unknown user costs the same time."""
        known = self._hashes.get(user)
        iterations, salt, digest = known or (HASH_ITERATIONS, b"\0" * _SALT_BYTES, b"")
        offered = hashlib.pbkdf2_hmac("sha512", password, salt, iterations, dklen=len(digest) or 64)
        return hmac.compare_digest(offered, digest) and known is not None


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    read: bool
    write: bool

    def allows(self, access: Access) -> bool:
        return self.read if access == "read" else self.write

    @property
    def denies(self) -> bool:
        return not (self.read or self.write)


@dataclass(slots=True)
class AccessList:
    """An ACL file, read."""

    _users: dict[str | None, list[_Rule]] = field(default_factory=dict)
    _patterns: list[_Rule] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> AccessList:
        """Read an ACL file; raises `UsageError` that names the line."""
        rules = cls()
        user: str | None = None
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if not stripped or stripped.startswith("#"):
                continue
            word, _, rest = stripped.partition(" ")
            rest = rest.strip()
            if word == "user" and rest:
                user = rest
            elif word in ("topic", "pattern") and rest:
                rule = _rule(rest, number)
                (rules._patterns if word == "pattern" else rules._users.setdefault(user, [])).append(rule)
            else:
                raise UsageError(f"ACL file, line {number}: it must begin with user, topic or pattern and say more")
        return rules

    def allows(self, user: str | None, client_id: str, topic: str, access: Access) -> bool:
        """Whether that client may read or write that topic; `user` is None for an anonymous one."""
        rules = [rule for rule in self._users.get(user, ()) if matches(rule.pattern, topic)]
        # A wildcard inside a name would widen a pattern to other clients' topics.
        if not _has_wildcard(client_id) and (user is None or not _has_wildcard(user)):
            for rule in self._patterns:
                if user is None and "%u" in rule.pattern:
                    continue
                pattern = _fill(rule.pattern, user or "", client_id)
                if is_topic_filter(pattern) and matches(pattern, topic):
                    rules.append(rule)
        return not any(rule.denies for rule in rules) and any(rule.allows(access) for rule in rules)


def _rule(text: str, number: int) -> _Rule:
    word, _, rest = text.partition(" ")
    kinds = {"read": (True, False), "write": (False, True), "readwrite": (True, True), "deny": (False, False)}
    if word in kinds and rest.strip():
        pattern, (read, write) = rest.strip(), kinds[word]
    else:
        pattern, read, write = text, True, True
    if not is_topic_filter(pattern):
        raise UsageError(f"ACL file, line {number}: {pattern!r} is no topic filter")
    return _Rule(pattern, read, write)


def _fill(pattern: str, user: str, client_id: str) -> str:
    """Fill in one pass, so that a user called `%c` stays what he is."""
    parts = pattern.split("%u")
    return user.join(part.replace("%c", client_id) for part in parts)


def _has_wildcard(name: str) -> bool:
    return any(c in name for c in "+#/")


def _is_user_name(user: str) -> bool:
    return bool(user) and user.isprintable() and not any(c in user for c in ":/+#") and user == user.strip()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
