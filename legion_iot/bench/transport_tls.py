"""A certificate for this machine's loopback that this process and those it starts trust, and nobody else."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

TRUST = "SSL_CERT_FILE"  # where OpenSSL looks for what it trusts


def can_make_certificates() -> bool:
    """Whether the package for that is installed."""
    return importlib.util.find_spec("cryptography") is not None


@contextlib.contextmanager
def certificate() -> Iterator[tuple[Path, Path]]:
    """The files of a broker's certificate and of its key, in PEM; trusted inside `with`."""
    from legion_iot_broker.authority import Authority  # noqa: PLC0415 — needs cryptography

    now = datetime.now(timezone.utc)
    authority = Authority.create(now)
    issued = authority.server(["127.0.0.1"], now)
    with tempfile.TemporaryDirectory(prefix="legion-bench-") as directory:
        made, key, trusted = (Path(directory) / name for name in ("server.crt", "server.key", "ca.crt"))
        made.write_bytes(issued.certificate)
        key.write_bytes(issued.key)
        trusted.write_bytes(authority.certificate)
        before = os.environ.get(TRUST)
        os.environ[TRUST] = str(trusted)
        try:
            yield made, key
        finally:
            if before is None:
                del os.environ[TRUST]
            else:
                os.environ[TRUST] = before
