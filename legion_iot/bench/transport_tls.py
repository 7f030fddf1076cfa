"""A certificate for `localhost` that this process and those it starts trust, and nobody else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from legion_iot.errors import BrokerError

TIMEOUT = 60.0  # seconds
TRUST = "SSL_CERT_FILE"  # where OpenSSL looks for what it trusts


def openssl_installed() -> bool:
    """Whether the program that makes certificates is on the path."""
    return shutil.which("openssl") is not None


@contextlib.contextmanager
def certificate() -> Iterator[tuple[Path, Path]]:
    """The files of a certificate that signs itself, and of its key; trusted inside `with`."""
    with tempfile.TemporaryDirectory(prefix="legion-bench-") as directory:
        made, key = Path(directory) / "certificate.pem", Path(directory) / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                   "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                   "-keyout", str(key), "-out", str(made)]  # fmt: skip
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            raise BrokerError(f"openssl made no certificate ({error}); correct its installation") from None
        before = os.environ.get(TRUST)
        os.environ[TRUST] = str(made)
        try:
            yield made, key
        finally:
            if before is None:
                del os.environ[TRUST]
            else:
                os.environ[TRUST] = before
