"""A bundle: one file that lets its holder into a group, as one member.

It is PEM, so that any MQTT program reads its certificates and key as they are: lines `key: value` first, then the
member's certificate and private key, then the certificate of the group's authority. For a broker of somebody else's it
can be written by hand; all but the name may be left out then, and without an authority the system's are trusted.
"""

from __future__ import annotations

import hashlib
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from legion_iot.errors import InputError, UsageError
from legion_iot.transport.connection import BrokerAddress, is_loopback

DEFAULT_BROKER = "mqtt://127.0.0.1"
LARGEST = 64 << 10  # bytes of a file that is taken for a bundle
DEFAULT_BASE_TOPIC = "legion"
_KEYS = ("name", "role", "broker", "base-topic", "password")
_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n.*?\n-----END \1-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one member needs to be let in; `repr()` shows no secret."""

    path: Path
    name: str
    role: str = ""
    broker: str = ""  # a URL
    base_topic: str = DEFAULT_BASE_TOPIC
    password: str | None = field(default=None, repr=False)
    certified: bool = False  # whether it holds a certificate and a key
    authorities: str | None = field(default=None, repr=False)  # certificates, PEM
    secret: str = field(default="", repr=False)  # of the holder, the same each time; nothing follows from it

    def address(self, url: str = "") -> BrokerAddress:
        """The broker at `url`, or at the bundle's own URL, with all that it wants to see of us.

        Raises UsageError for a URL that would send the password in the clear.
        """
        if not (url or self.broker):
            raise UsageError(f"{self.path} names no broker: give its address (--broker)")
        plain = BrokerAddress.parse(url or self.broker)
        if not plain.tls and not is_loopback(plain.host):
            raise UsageError(f"{plain} would carry {self.path}'s password in the clear: use mqtts:// (--broker)")
        return BrokerAddress(
            plain.host,
            plain.port,
            user=self.name,
            password=self.password,
            tls=plain.tls,
            authorities=self.authorities,
            certificate=self.path if self.certified and plain.tls else None,
            client_secret=self.secret,
        )


def broker_address(bundle: Bundle | None, url: str) -> BrokerAddress:
    """The broker at `url` for whoever has a bundle or none; without either, this machine's. Raises UsageError."""
    return BrokerAddress.parse(url or DEFAULT_BROKER) if bundle is None else bundle.address(url)


def check_role(bundle: Bundle, *roles: str) -> Bundle:
    """The bundle, when its member has one of these roles; raises UsageError."""
    if bundle.role not in ("", *roles):
        wanted = " or ".join(roles)
        raise UsageError(
            f"{bundle.path} is of {bundle.role} {bundle.name!r}: give the bundle of a member with role {wanted}"
        )
    return bundle


def bundle_text(head: dict[str, str], *blocks: bytes) -> str:
    """The text of a bundle with these lines and PEM blocks."""
    lines = [
        f"# legion-iot: whoever reads this file can pass for {head['name']}. Keep it with mode 0600.",
        *(f"{key}: {value}" for key, value in head.items()),
    ]
    return "\n".join(lines) + "\n\n" + "".join(block.decode() for block in blocks)


def read_bundle(path: Path) -> Bundle:
    """Read one; raises InputError that never shows what is secret in it."""
    text = _text(path)
    head, mark, _ = text.partition("-----BEGIN ")
    values = _head(path, head)
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(text)] if mark else []
    certificates = [block for kind, block in blocks if kind == "CERTIFICATE"]
    keys = [block for kind, block in blocks if kind.endswith("PRIVATE KEY")]
    if len(blocks) != text.count("-----BEGIN ") or len(certificates) + len(keys) != len(blocks) or len(keys) > 1:
        raise InputError(f"{path}: the bundle is cut short or damaged; fetch it again")
    if any(kind.startswith("ENCRYPTED") for kind, _ in blocks):
        raise InputError(f"{path}: the private key is encrypted, and nobody is there to type its password")
    if keys and not certificates:
        raise InputError(f"{path}: a private key without its certificate; fetch the bundle again")
    password = values.get("password")
    if not keys and password is None:
        raise InputError(f"{path}: neither a certificate with its key nor a password; give a bundle (--credentials)")
    own = "".join(keys) + (password or "")
    return Bundle(
        path,
        values["name"],
        values.get("role", ""),
        values.get("broker", ""),
        values.get("base-topic", DEFAULT_BASE_TOPIC),
        password,
        bool(keys),
        "".join(certificates[1:] if keys else certificates) or None,
        hashlib.sha256(b"client id" + own.encode()).hexdigest()[:16],
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(f"{path}: too long for a bundle; give the file that `legion broker add-device` wrote")
        if stat.S_IMODE(mode) & stat.S_IROTH:
            raise InputError(f"{path}: everybody on this machine can read it; run: chmod 600 {path}")
        return content.decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a bundle (--credentials)") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: no bundle; give the file that `legion broker add-device` wrote") from None


def _head(path: Path, text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or key not in _KEYS or key in values or not value:
            raise InputError(f"{path}, line {number}: not one of {', '.join(_KEYS)} with a value, each once")
        values[key] = value
    if "name" not in values:
        raise InputError(f"{path}: no bundle, since no line says `name:`; give the file of `legion broker add-device`")
    return values
