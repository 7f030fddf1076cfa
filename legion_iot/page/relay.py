"""One browser's way to the broker: the bytes of its websocket to a TCP or TLS connection of its own, and back.

Nothing is read of what passes: the browser says to the broker itself who it is, and may do there what that user may.
Neither side is read any further while the other one does not take what came (backpressure).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from legion_iot.errors import BrokerError
from legion_iot.transport.connection import BrokerAddress
from legion_iot.transport.sockets import readable_errors, tune

log = logging.getLogger("legion-page")

FIRST_SECONDS = 10.0  # for a browser to say anything, and for the broker to be reached
PIECE = 64 << 10  # bytes read from the broker at a time
KEEP_ALIVE = 20  # seconds, as the page's

# Close codes of websockets (RFC 6455, 7.4.1, and IANA's registry).
UNSUPPORTED_DATA, TRY_AGAIN_LATER = 1003, 1013


async def relay(browser: ServerConnection, broker: BrokerAddress, tls: ssl.SSLContext | None) -> None:
    """Serve a browser until it or the broker ends the link."""
    with contextlib.suppress(ConnectionClosed, asyncio.TimeoutError):
        first = await asyncio.wait_for(browser.recv(), FIRST_SECONDS)
        try:
            reader, writer = await _connect(broker, tls)
        except BrokerError as error:
            log.warning("a page cannot be connected: %s", error)
            await browser.close(TRY_AGAIN_LATER, "the broker cannot be reached")
            return
        try:
            await _both_ways(browser, first, reader, writer)
            # Unless the browser did; in order or not, and noticed by reading or by writing.
            await browser.close(TRY_AGAIN_LATER, "the broker ended the link")
        finally:
            writer.close()


async def _connect(
    broker: BrokerAddress, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises BrokerError."""
    with readable_errors(broker):
        opening = asyncio.open_connection(broker.host, broker.port, ssl=tls, limit=PIECE)
        try:
            reader, writer = await asyncio.wait_for(opening, FIRST_SECONDS)
        except asyncio.TimeoutError as error:  # which Python 3.10 has beside the builtin one
            raise TimeoutError from error
        tune(writer.get_extra_info("socket"), KEEP_ALIVE)  # which fails where the broker has cut the link already
    return reader, writer


async def _both_ways(
    browser: ServerConnection, first: str | bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    ways = [asyncio.create_task(_up(browser, first, writer)), asyncio.create_task(_down(reader, browser))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _up(browser: ServerConnection, first: str | bytes, writer: asyncio.StreamWriter) -> None:
    message = first
    with contextlib.suppress(OSError, ConnectionClosed):
        while True:
            if isinstance(message, str):
                await browser.close(UNSUPPORTED_DATA, "MQTT is binary")
                return
            writer.write(message)
            await writer.drain()
            message = await browser.recv()


async def _down(reader: asyncio.StreamReader, browser: ServerConnection) -> None:
    with contextlib.suppress(OSError, ConnectionClosed):
        while data := await reader.read(PIECE):
            await browser.send(data)
