"""What happens on the machine that `test_boot` boots: a group of one device, made, watched, restarted and taken away.

Each step leaves a line in /found/steps; the first that fails leaves its reason, and the machine stops.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import time
import traceback
from pathlib import Path

from legion_iot.transport.connection import Message
from legion_iot.transport.credentials import read_bundle
from legion_iot.transport.paho import PahoConnection
from legion_iot.transport.retained import read_retained
from legion_iot.wire import codec
from legion_iot.wire.home_assistant import DiscoveryTopics
from legion_iot.wire.messages import Result
from legion_iot.wire.topics import Topics

FOUND = Path("/found")
HOME = Path("/opt/legion-iot")
BUNDLES = Path("/srv/bundles")
AGENT, ORCHESTRATOR = "legion-agent.service", "legion-orchestrator.service"
WATCHDOG_SECONDS = 3
DEADLINE = 40.0


def say(step: str, **more: object) -> None:
    with (FOUND / "steps").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "at": round(time.monotonic(), 1), **more}) + "\n")


def tried(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A program, with its standard output and error as one text."""
    return subprocess.run(
        [str(HOME / "bin" / command[0]) if str(command[0]).startswith("legion") else command[0], *command[1:]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
    )  # fmt: skip


def run(*command: str | Path) -> str:
    """What a program said that has to succeed."""
    done = tried(*command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def shown(unit: str, *names: str) -> dict[str, str]:
    lines = run("systemctl", "show", "--property", ",".join(names), unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def infer() -> Result:
    """The answer to the input in /found, asked for as a client of the group."""
    results: queue.SimpleQueue[Result] = queue.SimpleQueue()

    def on_event(event: object) -> None:
        if isinstance(event, Message):
            results.put(codec.from_json(Result, event.payload))

    bundle = read_bundle(BUNDLES / "phone.pem")
    connection = PahoConnection(bundle.address(), "phone", on_event)
    connection.open(10)
    try:
        connection.subscribe([(Topics().result("small"), 1)])
        deadline = time.monotonic() + DEADLINE
        while True:  # who asks before the orchestrator listens is not heard
            connection.publish(Topics().infer("small"), (FOUND / "input.npy").read_bytes())
            try:
                return results.get(timeout=3)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise
    finally:
        connection.close()


def tell_answer(step: str) -> None:
    result = infer()
    say(step, ok=result.ok, reason=result.reason, outputs=[digest.sha256 for digest in result.outputs])


def announced() -> list[str]:
    """The devices that Home Assistant would find, read as it."""
    retained = read_retained(
        read_bundle(BUNDLES / "home.pem").address(), "home", [DiscoveryTopics("legion").device("+")]
    )
    return sorted(DiscoveryTopics("legion").name_in(message.topic) for message in retained)


def first_boot() -> None:
    run("legion", "broker", "init", "/var/lib/legion-broker", "--host", "localhost")
    BUNDLES.mkdir(parents=True, mode=0o700)
    for name, role in (("ant", "agent"), ("hub", "orchestrator"), ("phone", "client"), ("home", "home-assistant")):
        run("legion", "broker", "add-device", name, "--role", role, "--out", BUNDLES / f"{name}.pem")
    drop_in = Path("/etc/systemd/system/mosquitto.service.d/legion-iot.conf")
    drop_in.parent.mkdir()
    shutil.copy(HOME / "share/legion-iot/systemd/drop-ins/mosquitto.conf", drop_in)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "mosquitto.service")
    say("broker")
    Path("/srv/small.tflite").write_bytes((FOUND / "small.tflite").read_bytes())
    run(
        "legion",
        "orchestrator",
        "install",
        BUNDLES / "hub.pem",
        "--models",
        "/srv/small.tflite",
        "--home-assistant",
        "--prometheus",
        "127.0.0.1:0",
    )
    say("orchestrator", **shown(ORCHESTRATOR, "ActiveState", "StatusText", "User"))
    refuse()
    joined = run("legion-agent", "join", BUNDLES / "ant.pem")
    say("joined", text=joined, **shown(AGENT, "ActiveState", "StatusText", "DynamicUser"))
    say("joined again", text=run("legion-agent", "join", BUNDLES / "ant.pem"))
    tell_answer("inference")
    say(
        "status", text=run("legion-agent", "status"), agent=run("legion-agent", "status", "--json"),
        orchestrator=run("legion", "orchestrator", "status", "--json"),
    )  # fmt: skip
    say("security", text=run("systemd-analyze", "security", "--no-pager", AGENT, ORCHESTRATOR).splitlines()[-1])
    hang()
    tell_answer("inference after the watchdog")
    say("reboot")
    (FOUND / "rebooting").touch()
    run("systemctl", "reboot")


def refuse() -> None:
    """Joins that do not succeed: a device that was removed, and a unit that does not start."""
    run("legion", "broker", "add-device", "bee", "--out", BUNDLES / "bee.pem")
    run("legion", "broker", "remove-device", "bee")
    done = tried("legion-agent", "join", BUNDLES / "bee.pem")
    there = [
        str(path)
        for path in (Path("/etc/legion-iot/agent.toml"), Path(f"/etc/systemd/system/{AGENT}"))
        if path.exists()
    ]
    say("removed device", code=done.returncode, text=done.stdout, there=there)
    drop_in = Path(f"/run/systemd/system/{AGENT}.d/broken.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nExecStartPre=/bin/false\nRestart=no\n", encoding="utf-8")
    done = tried("legion-agent", "join", BUNDLES / "ant.pem")
    status = tried("legion-agent", "status")
    say("broken unit", code=done.returncode, text=done.stdout, status=status.returncode, told=status.stdout)
    drop_in.unlink()


def hang() -> None:
    """Stop the agent as a hung one would stand still, and wait for another one in its place."""
    drop_in = Path(f"/run/systemd/system/{AGENT}.d/quick.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\nRestartSec=1\n", encoding="utf-8")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", AGENT)
    hung = shown(AGENT, "MainPID")["MainPID"]
    time.sleep(1.5 * WATCHDOG_SECONDS)  # one that works is left alone
    if shown(AGENT, "MainPID", "NRestarts") != {"MainPID": hung, "NRestarts": "0"}:
        raise RuntimeError("an agent that works was ended by the watchdog")
    os.kill(int(hung), signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE
    while True:
        state = shown(AGENT, "ActiveState", "NRestarts", "MainPID")
        if state["ActiveState"] == "active" and state["MainPID"] not in ("0", hung):
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"the hung agent did not come back: {state}")
        time.sleep(0.2)
    journal = run("journalctl", "--unit", AGENT, "--output", "cat", "--no-pager")
    say(
        "watchdog", restarts=state["NRestarts"], said="Watchdog timeout" in journal, stack="most recent call" in journal
    )


def second_boot() -> None:
    tell_answer("inference after the reboot")
    say("active", agent=shown(AGENT, "ActiveState", "NRestarts"), orchestrator=shown(ORCHESTRATOR, "ActiveState"))
    say("stopped", **{unit: run("systemctl", "stop", unit) for unit in (AGENT,)}, **shown(AGENT, "Result"))
    run("legion-agent", "uninstall")
    before = announced()
    told = tried("legion", "orchestrator", "uninstall").stdout
    say("home assistant", before=before, after=announced(), told=told)
    left = [
        str(path)
        for place in ("/etc", "/var/lib", "/var/cache", "/run/systemd", "/usr/lib/systemd")
        for path in Path(place).rglob("*legion*")
        if "legion-broker" not in str(path) and "boot-test" not in str(path) and "mosquitto" not in str(path)
    ]
    units = [
        line
        for line in run("systemctl", "list-units", "--all", "--plain", "legion-*").splitlines()
        if "legion-" in line
    ]
    users = [line for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines() if "legion" in line]
    say("uninstalled", left=left, units=[unit for unit in units if "boot-test" not in unit], users=users)
    run("systemctl", "poweroff")


if __name__ == "__main__":
    try:
        second_boot() if (FOUND / "rebooting").exists() else first_boot()
    except BaseException:
        units = (AGENT, ORCHESTRATOR, "mosquitto.service")
        journal = [subprocess.run(["journalctl", "-n", "30", "-o", "cat", "-u", unit], capture_output=True, text=True,
                                  timeout=30, check=False).stdout for unit in units]  # fmt: skip
        say("failed", reason=traceback.format_exc(), journal=journal)
        subprocess.run(["systemctl", "poweroff"], timeout=30, check=False)
