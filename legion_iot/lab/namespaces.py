"""A network of its own for each device: namespaces behind one bridge, their links shaped by tc in both directions.

The bridge and the broker are in a namespace too, the hub; this machine's own network gets one virtual cable to it with
a single address, from the range that is set apart for benchmarks (RFC 2544), and nothing else is changed.

    device: eth0 ──(up: tbf)── dN ┐
                  (down: tbf on dN)├ br0, hub ── uplink ── lg<id> on this machine
    device: eth0 ───────────── dN ┘

What waits for a device's own link waits as it would on a board: in the queue that Linux gives an interface, fq_codel
where the kernel has it, else pfifo_fast. The way down begins in a switch, whose queue is first in, first out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from legion_iot.errors import UsageError
from legion_iot.lab.pacing import bytes_per_second
from legion_iot.lab.spec import Link

TOOL_TIMEOUT = 10.0
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"
_NAMED = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_QUEUE = "50ms"
_LEAST_BURST = 16_000  # bytes


class Network:
    """The network of one lab; `make` first, then `add` each device. Everything raises UsageError."""

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self._subnet = ""
        self._devices = 0
        self.hub = f"legion-{lab}-hub"
        self.netem = False

    @property
    def hub_address(self) -> str:
        return f"{self._subnet}.2"

    def make(self) -> None:
        """Make the hub and the cable to it."""
        self._subnet = _free_subnet(self._lab)
        outside = f"lg{self._lab}"
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "set", "lo", "up")
        _ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.hub, "address", "add", f"{self.hub_address}/24", "dev", "br0")
        _ip("-n", self.hub, "link", "set", "br0", "up")
        _ip("link", "add", outside, "type", "veth", "peer", "name", "uplink", "netns", self.hub)
        _ip("-n", self.hub, "link", "set", "uplink", "master", "br0", "up")
        # One address on either side: no route to the devices, so no packet of theirs finds its way into the machine.
        _ip("address", "add", f"{self._subnet}.1", "peer", self.hub_address, "dev", outside)
        _ip("link", "set", outside, "addrgenmode", "none")  # no IPv6, so that nobody announces himself
        _ip("link", "set", outside, "up")
        self.netem = self._can("netem", "delay", "1ms")
        if not self._can("tbf", "rate", "100mbit", "burst", "25000", "latency", _QUEUE):
            raise UsageError("this kernel cannot shape traffic (no tbf)")

    def _can(self, *discipline: str) -> bool:
        try:
            _tc(self.hub, "uplink", "root", *discipline)
        except UsageError:
            return False
        _run("tc", "-n", self.hub, "qdisc", "del", "dev", "uplink", "root")
        return True

    def add(self, link: Link) -> str:
        """Make one device's namespace and shape its link as far as the kernel can; the namespace's name."""
        self._devices += 1
        number = self._devices
        name, port = f"legion-{self._lab}-{number}", f"d{number}"
        _ip("netns", "add", name)
        _ip("-n", self.hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self.hub, "link", "set", port, "master", "br0", "up")
        _ip("-n", name, "address", "add", f"{self.address_of(number)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
        self._shape(name, "eth0", link.up_mbit, link)
        self._queue_as_linux_does(name, "eth0", link)
        self._shape(self.hub, port, link.down_mbit, link)
        return name

    def address_of(self, number: int) -> str:
        """The address of the device that was added as that number, from 1 on."""
        return f"{self._subnet}.{9 + number}"

    def _shape(self, namespace: str, interface: str, mbit: float | None, link: Link) -> None:
        parent = ["root", "handle", "1:"]
        if self._is_bad(link):
            bad = ["delay", f"{link.delay_ms}ms", "loss", f"{link.loss_percent}%", "limit", "10000"]
            _tc(namespace, interface, *parent, "netem", *bad)
            parent = ["parent", "1:1", "handle", "10:"]
        if mbit is not None:
            burst = max(_LEAST_BURST, int((bytes_per_second(mbit) or 0) * 0.002))
            rate = ["rate", f"{round(mbit * 1e6)}bit", "burst", str(burst), "latency", _QUEUE]
            _tc(namespace, interface, *parent, "tbf", *rate)

    def _is_bad(self, link: Link) -> bool:
        """Whether netem has something to do on it."""
        return self.netem and bool(link.delay_ms or link.loss_percent)

    def _queue_as_linux_does(self, namespace: str, interface: str, link: Link) -> None:
        """Replace the shaper's own queue, first in, first out, by the one that Linux gives an interface."""
        if link.up_mbit is None:
            return
        parent = "10:1" if self._is_bad(link) else "1:1"
        try:
            _tc(namespace, interface, "parent", parent, "handle", "20:", "fq_codel")
        except UsageError:
            _tc(namespace, interface, "parent", parent, "handle", "20:", "pfifo_fast")

    @contextlib.contextmanager
    def at_hub(self) -> Iterator[None]:
        """Have this thread, and what it starts, in the hub's network inside `with`."""
        with within(self.hub):
            yield


@contextlib.contextmanager
def within(namespace: str) -> Iterator[None]:
    """Have this thread, and what it starts, in that namespace's network inside `with`."""
    with Path("/proc/thread-self/ns/net").open("rb") as before, (_NAMED / namespace).open("rb") as wanted:
        _enter(wanted)
        try:
            yield
        finally:
            _enter(before)


def _enter(namespace: IO[bytes]) -> None:
    """`ip netns exec` would give the thread a view of its own of /sys too, without the control groups."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
        raise UsageError(f"a network namespace cannot be entered ({os.strerror(ctypes.get_errno())})")


def inside(namespace: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in that namespace, under the same process id; none for none."""
    return (_tool("ip"), "netns", "exec", namespace) if namespace else ()


def missing_tools() -> str:
    """Why there can be no network of namespaces here, or nothing."""
    missing = [name for name in ("ip", "tc") if not _path(name)]
    return f"{' and '.join(missing)} not installed (apt install iproute2)" if missing else ""


def remove_network(lab: str) -> None:
    """Remove all namespaces of a lab and its cable; nothing happens where there are none."""
    if missing_tools():
        return
    with contextlib.suppress(UsageError):
        if Path(f"/sys/class/net/lg{lab}").exists():
            _ip("link", "del", f"lg{lab}")
    with contextlib.suppress(OSError):
        for path in _NAMED.glob(f"legion-{lab}-*"):
            with contextlib.suppress(UsageError):
                _ip("netns", "del", path.name)


def _free_subnet(lab: str) -> str:
    """Three of the four numbers of addresses nobody here uses."""
    taken = _ip("-4", "-o", "address", "show") + _ip("-4", "route", "show")
    first = int(lab[:2], 16)
    for number in (*range(first, 256), *range(first)):
        subnet = f"198.18.{number}"
        if f"{subnet}." not in taken:
            return subnet
    raise UsageError("all addresses for labs, 198.18.0.0/16, are in use")


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _tc(namespace: str, interface: str, *discipline: str) -> None:
    _run("tc", "-n", namespace, "qdisc", "replace", "dev", interface, *discipline)


def _run(tool: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [_tool(tool), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TOOL_TIMEOUT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{tool} {' '.join(arguments)}: did not end within {TOOL_TIMEOUT:g} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise UsageError(f"{tool} {' '.join(arguments)}: {said}")
    return done.stdout


def _path(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path=_SBIN)


def _tool(tool: str) -> str:
    path = _path(tool)
    if path is None:
        raise UsageError(f"{tool} is not installed: apt install iproute2")
    return path
