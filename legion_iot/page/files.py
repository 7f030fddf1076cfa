"""What a browser may fetch: the page's own files, and what it has to know before it can connect."""

from __future__ import annotations

import json
from importlib import resources
from typing import NamedTuple

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Nothing comes from elsewhere, nothing is sent elsewhere, and no script or style stands in the page itself.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
)


class File(NamedTuple):
    """What is sent for a path."""

    content_type: str
    content: bytes


def files(base_topic: str, login: bool) -> dict[str, File]:
    """Everything by its path; `login` says that the broker wants a name and a password of everybody."""
    found = {}
    for resource in (resources.files(__package__) / "static").iterdir():
        content_type = _TYPES.get(resource.name.rpartition(".")[2])
        if content_type is not None:
            found[f"/{resource.name}"] = File(content_type, resource.read_bytes())
    found["/"] = found.pop("/index.html")
    settings = {"schema": 1, "base_topic": base_topic, "login": login}
    found["/settings.json"] = File("application/json", json.dumps(settings).encode())
    return found
