"""Addresses to listen on, as settings say them."""

from __future__ import annotations

import pytest

from legion_iot.errors import UsageError
from legion_iot.transport.listening import ListenAddress


@pytest.mark.parametrize("text", ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:65535", "hub.local:80"])
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    assert str(ListenAddress.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "hub", "hub:", "::1:80", "[::1]", "[::1", "[hub]:1", "h:x", "h:²", "h:65536", "h:-1"]
)
def test_anything_else_is_a_users_mistake(text: str) -> None:
    with pytest.raises(UsageError):
        ListenAddress.parse(text)
