"""Installing into a directory that stands for a system's root: what is written, what is refused, and what is left."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from legion_iot.errors import InputError, LegionError, UsageError
from legion_iot.installation import places, procedures, systemctl, units
from legion_iot.installation.places import Service
from legion_iot.installation.procedures import Wanted, install, uninstall
from legion_iot.installation.settings_file import with_values
from legion_iot.toml_tables import parse
from tests.cli.test_commands import run
from tests.packaging.test_units import systemd_analyze

BUNDLE = "name: ant\nrole: agent\nbroker: mqtts://hub\nbase-topic: shelf\npassword: hunter2\n"

__all__ = ["systemd_analyze"]  # a fixture that every test here uses: `systemctl` comes with it


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "ant.pem"
    path.write_text(BUNDLE, encoding="utf-8")
    path.chmod(0o600)
    return path


def join(root: Path, bundle: Path | None, **values: object) -> list[str]:
    said: list[str] = []
    install(Wanted(Service("agent", root), bundle, values), said.append)
    return said


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below, with its mode and content; directories with theirs."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in root.rglob("*")
    }


def test_a_join_and_its_end(root: Path, bundle: Path) -> None:
    said = join(root, bundle)
    assert any("install legion-iot on that system" in line for line in said)
    written = tree(root)
    modes = {name: mode for name, (mode, content) in written.items() if content}
    assert modes == {
        "etc/legion-iot/agent.pem": 0o600,
        "etc/legion-iot/agent.toml": 0o644,
        "etc/systemd/system/legion-agent.service": 0o644,
        "etc/systemd/system/legion-agent.service.d/credentials.conf": 0o644,
    }
    assert written["etc/legion-iot"][0] == 0o755
    assert written["etc/legion-iot/agent.pem"][1] == BUNDLE.encode()
    assert parse(written["etc/legion-iot/agent.toml"][1].decode()) == {"credentials": "agent.pem"}
    assert b"hunter2" not in b"".join(content for name, (_, content) in written.items() if not name.endswith(".pem"))
    wants = root / "etc/systemd/system/multi-user.target.wants/legion-agent.service"
    assert os.readlink(wants) == "/etc/systemd/system/legion-agent.service"
    join(root, bundle)
    assert tree(root) == written
    state = root / "var/lib/private/legion-agent/models"
    state.mkdir(parents=True)
    (root / "var/lib/legion-agent").symlink_to("private/legion-agent")
    uninstall(Service("agent", root), False, said.append)
    assert not [name for name in tree(root) if "legion" in name]
    uninstall(Service("agent", root), False, said.append)
    assert said[-1] == "legion-agent.service is not installed"


def test_what_a_person_wrote_stays(root: Path, bundle: Path) -> None:
    file = root / "etc/legion-iot/agent.toml"
    file.parent.mkdir(parents=True)
    file.write_text("# mine\nthreads = 4  # all of them\nbroker = 'mqtts://old'", encoding="utf-8")
    join(root, bundle, broker="mqtts://new")
    text = file.read_text(encoding="utf-8")
    assert text == '# mine\nthreads = 4  # all of them\nbroker = "mqtts://new"\ncredentials = "agent.pem"\n'
    drop_in = root / "etc/systemd/system/legion-agent.service.d/mine.conf"
    drop_in.touch()
    said: list[str] = []
    uninstall(Service("agent", root), True, said.append)
    assert file.exists()
    assert drop_in.exists()
    assert any("holds more" in line for line in said)


def test_a_bundle_that_the_settings_name_becomes_the_services(root: Path, bundle: Path) -> None:
    settings = root / "etc/legion-iot"
    settings.mkdir(parents=True)
    (settings / "agent.toml").write_text("credentials = 'mine.pem'\n", encoding="utf-8")
    before = tree(root)
    with pytest.raises(InputError, match=r"mine\.pem: cannot be read"):
        join(root, None)
    assert tree(root) == before
    (settings / "mine.pem").write_bytes(bundle.read_bytes())
    (settings / "mine.pem").chmod(0o600)
    join(root, None)
    assert (settings / "agent.pem").read_bytes() == BUNDLE.encode()
    assert parse((settings / "agent.toml").read_text(encoding="utf-8")) == {"credentials": "agent.pem"}


def test_without_a_bundle_nothing_is_handed_over(root: Path, bundle: Path) -> None:
    join(root, bundle)
    (root / "etc/legion-iot/agent.pem").unlink()
    with pytest.raises(InputError, match=r"agent\.pem: cannot be read"):
        join(root, None)
    (root / "etc/legion-iot/agent.toml").write_text("", encoding="utf-8")
    join(root, None)  # for a broker without access rules
    assert not (root / "etc/systemd/system/legion-agent.service.d/credentials.conf").exists()


def test_values_go_into_any_text() -> None:
    assert with_values("", {"a": "x"}, "f") == 'a = "x"\n'
    with pytest.raises(InputError, match="f: no TOML"):
        with_values("a = ", {"b": 1}, "f")
    with pytest.raises(InputError, match="b cannot be set"):
        with_values("[table]\nx = 1\n", {"b": 1}, "f")


@pytest.mark.parametrize(
    ("bundle_text", "settings", "says"),
    [
        (BUNDLE.replace("role: agent", "role: client"), "", "role agent"),
        (BUNDLE + "-----BEGIN CERTIFICATE-----\nxx\n", "", "cut short"),
        (BUNDLE.replace("mqtts:", "mqtt:"), "", "in the clear"),
        (BUNDLE, "threads = ", "no TOML"),
        (BUNDLE, "thread = 1\n", "did you mean 'threads'?"),
        (BUNDLE, "name = 'bee'\n", "leave one of the two out"),
    ],
)
def test_what_cannot_work_changes_nothing(root: Path, bundle: Path, bundle_text: str, settings: str, says: str) -> None:
    bundle.write_text(bundle_text, encoding="utf-8")
    if settings:
        (root / "etc/legion-iot").mkdir(parents=True)
        (root / "etc/legion-iot/agent.toml").write_text(settings, encoding="utf-8")
    before = tree(root)
    with pytest.raises(LegionError) as raised:
        join(root, bundle)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert "legion-install" not in str(raised.value)  # the scratch directory's name
    assert tree(root) == before


@pytest.mark.parametrize("fails_at", range(4))
def test_a_full_disk_changes_nothing_and_a_second_run_repairs(
    root: Path, bundle: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = fails_at

    def full(handle: int) -> None:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1

    before = tree(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            join(root, bundle)
    assert tree(root) == before
    join(root, bundle)
    assert (root / "etc/legion-iot/agent.pem").exists()


def test_an_end_between_two_renames_is_repaired(root: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, renamed = os.replace, 0

    def once(source: Path, target: Path) -> None:
        nonlocal renamed
        if renamed == 2:
            raise KeyboardInterrupt
        renamed += 1
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            join(root, bundle)
    join(root, bundle)
    once_more = tree(root)
    assert not [name for name in once_more if Path(name).name.startswith(".")]  # no temporary file
    assert "etc/legion-iot/agent.pem" in once_more


def test_directories_of_others_are_refused(root: Path, bundle: Path) -> None:
    settings = root / "etc/legion-iot"
    settings.mkdir(parents=True)
    settings.chmod(0o775)
    with pytest.raises(InputError, match="chmod go-w"):
        join(root, bundle)
    settings.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(settings, 65534, 65534)
        with pytest.raises(InputError, match="chown root"):
            join(root, bundle)
    settings.rename(root / "elsewhere")
    settings.touch()
    with pytest.raises(InputError, match="is no directory"):
        join(root, bundle)


@pytest.fixture
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory stands for the system that runs."""
    monkeypatch.setattr(places, "ROOT", root)
    monkeypatch.setattr(units, "check_visible", lambda program: None)
    return root


def test_only_root_may(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="sudo"):
        join(here, bundle)
    with pytest.raises(UsageError, match="sudo"):
        uninstall(Service("agent", here), False, lambda line: None)
    assert tree(here) == {}


def test_without_systemd(here: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(systemctl, "_BOOTED", tmp_path / "none")
    with pytest.raises(UsageError, match="systemd does not run"):
        join(here, bundle)
    with pytest.raises(UsageError, match="systemd does not run"):
        procedures.status(Service("agent", here))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="systemd is not installed"):
        join(here, bundle)
    assert tree(here) == {}


@pytest.mark.parametrize("path", ["/home/pi/.venv/bin/legion-agent", "/root/x", "/tmp/x", "/mnt/card/x"])
def test_programs_that_the_sandbox_hides_are_refused(path: str) -> None:
    with pytest.raises(UsageError, match="sees nothing there"):
        units.check_visible(Path(path))


def test_programs_that_a_service_cannot_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_HIDDEN", ())
    program = tmp_path / "closed" / "legion-agent"
    with pytest.raises(InputError, match="is not there"):
        units.check_visible(program)
    program.parent.mkdir(mode=0o700)
    program.touch(mode=0o755)
    with pytest.raises(UsageError, match="is closed to"):
        units.check_visible(program)
    with pytest.raises(UsageError, match="cannot name"):
        units.check_visible(tmp_path / "a b")
    units.check_visible(Path("/usr/bin/env"))


def test_where_systemd_can_the_time_between_starts_grows() -> None:
    agent = Service("agent")
    assert "RestartMaxDelaySec" not in units.unit_text(agent, "/x/bin", units.BACK_OFF_SINCE - 1)
    text = units.unit_text(agent, "/x/bin", units.BACK_OFF_SINCE)
    assert "RestartSec=15\nRestartSteps=6\nRestartMaxDelaySec=5min\n" in text
    assert "ExecStart=/x/bin/legion-agent\n" in text


def test_the_commands(root: Path, bundle: Path) -> None:
    done = run("legion-agent", "join", str(bundle), "--root", str(root))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    done = run("legion", "orchestrator", "install", "--root", str(root), "--models", "a.tflite,vgg16", "--agents", "3")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    table = parse((root / "etc/legion-iot/orchestrator.toml").read_text(encoding="utf-8"))
    assert table == {"models": ["a.tflite", "vgg16"], "agents": 3}
    assert "orchestrator run\n" in (root / "etc/systemd/system/legion-orchestrator.service").read_text(encoding="utf-8")
    for command in (("legion-agent", "uninstall"), ("legion", "orchestrator", "uninstall")):
        assert run(*command, "--root", str(root)).returncode == 0
    assert not [name for name in tree(root) if "legion" in name]
    for arguments, code in (
        (["join", str(root / "none.pem"), "--root", str(root)], 3),
        (["join", str(bundle), "--root", str(root / "none")], 3),
        (["join", str(bundle), "--root", str(root), "--broker", "kitchen"], 2),
    ):
        done = run("legion-agent", *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
