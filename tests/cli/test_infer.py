"""`legion infer` where what it is told cannot be: nothing is connected to, and one line says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from legion_iot.cli.main import app
from legion_iot.errors import InputError, LegionError, UsageError


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ("hed none.jpg", InputError, "none.jpg: cannot be read (No such file or directory)"),
        ("hed .", InputError, "cannot be read (Is a directory)"),
        ("hed empty.jpg", InputError, "empty.jpg is empty"),
        ("hed large.jpg", InputError, "send a smaller picture"),
        ("Hed! some.jpg", UsageError, "cannot be a model's name"),
        ("hed some.jpg --save x.jpg", UsageError, "ends in .png"),
        ("hed some.jpg --save none/x.png", InputError, "choose another place (--save)"),
        ("hed some.jpg --count 0", UsageError, "--count is 0"),
        ("hed some.jpg --count 100001", UsageError, "--count is 100001"),
        ("hed some.jpg --window 33", UsageError, "--window is 33"),
        ("hed some.jpg --timeout 0", UsageError, "--timeout is 0"),
        ("hed some.jpg --timeout nan", UsageError, "--timeout is nan"),
        ("hed some.jpg --broker nowhere", UsageError, "mqtt://"),
        ("hed some.jpg --credentials none.pem", InputError, "none.pem: cannot be read"),
    ],
)
def test_mistakes(
    arguments: str, kind: type[LegionError], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jpg").touch()
    Path("some.jpg").write_bytes(b"some")
    with Path("large.jpg").open("wb") as file:
        file.truncate((32 << 20) + 1)
    done = CliRunner().invoke(app, ["infer", *arguments.split()], standalone_mode=False)
    assert isinstance(done.exception, kind), done.exception
    assert says in str(done.exception)
    assert (done.stdout, done.stderr) == ("", "")
