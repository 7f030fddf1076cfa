"""Bundles: read with suspicion, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from legion_iot.errors import InputError, UsageError
from legion_iot.transport import BrokerAddress
from legion_iot.transport.credentials import LARGEST, broker_address, bundle_text, check_role, read_bundle
from legion_iot.transport.tls import client_context

HEAD = {"name": "pi1", "role": "agent", "broker": "mqtts://pi:8883", "base-topic": "kitchen", "password": "hush"}
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
OTHER = CERTIFICATE.replace(b"AAAA", b"BBBB")
KEY = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "pi1.pem", bundle_text(HEAD, CERTIFICATE, KEY, OTHER))


def write(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def test_what_is_written_is_read(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert (read.name, read.role, read.broker, read.base_topic) == ("pi1", "agent", "mqtts://pi:8883", "kitchen")
    assert (read.password, read.certified, read.authorities) == ("hush", True, OTHER.decode())
    address = read.address()
    assert (address.host, address.port, address.tls) == ("pi", 8883, True)
    assert (address.user, address.password, address.certificate) == ("pi1", "hush", bundle)
    assert str(address) == "mqtts://pi1@pi:8883"
    for shown in (repr(read), str(read), repr(address), str(address)):
        assert "hush" not in shown
        assert "c2VjcmV0" not in shown
        assert read.secret not in shown


def test_another_broker_may_be_named(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert read.address("mqtts://other").endpoint == "other:8883"
    here = read.address("mqtt://127.0.0.1:1883")
    assert (here.tls, here.certificate, here.password) == (False, None, "hush")
    assert broker_address(read, "") == read.address()
    assert broker_address(None, "") == BrokerAddress("127.0.0.1")
    assert broker_address(None, "mqtt://pi") == BrokerAddress("pi")


def test_no_password_goes_over_a_network_in_the_clear(bundle: Path) -> None:
    for url in ("mqtt://192.168.1.10", "mqtt://pi.local", "mqtt://localhost.example"):
        with pytest.raises(UsageError, match="in the clear"):
            read_bundle(bundle).address(url)


def test_client_ids_are_the_holder_s_alone(tmp_path: Path, bundle: Path) -> None:
    same = write(tmp_path / "copy.pem", bundle.read_text())
    other = write(tmp_path / "other.pem", bundle_text(HEAD | {"password": "other"}, CERTIFICATE, KEY, OTHER))
    secrets = [read_bundle(path).address().client_secret for path in (bundle, same, other)]
    assert secrets[0] == secrets[1] != secrets[2]
    assert all(len(each) == 16 for each in secrets)


def test_a_bundle_by_hand(tmp_path: Path) -> None:
    """For a broker of somebody else's: a name and a password are enough."""
    read = read_bundle(write(tmp_path / "a.pem", "name: me\npassword: hush\n"))
    assert (read.role, read.base_topic, read.certified, read.authorities) == ("", "legion", False, None)
    assert read.address("mqtts://pi").password == "hush"
    assert check_role(read, "agent") is read
    with pytest.raises(UsageError, match="--broker"):
        read.address()
    trusting = read_bundle(write(tmp_path / "b.pem", "name: me\npassword: hush\n" + CERTIFICATE.decode()))
    assert (trusting.certified, trusting.authorities) == (False, CERTIFICATE.decode())


def test_a_bundle_is_for_one_role(bundle: Path) -> None:
    assert check_role(read_bundle(bundle), "agent")
    with pytest.raises(UsageError, match="agent 'pi1'"):
        check_role(read_bundle(bundle), "orchestrator")


@pytest.mark.parametrize(
    "text",
    [
        "", "rubbish", "name pi1", "name:", "password: hush", "name: a", "name: a\nname: b\npassword: hush",
        "name: a\ncolour: red\npassword: hush", bundle_text(HEAD, CERTIFICATE, KEY, OTHER)[:-30],
        bundle_text(HEAD, KEY), bundle_text(HEAD, CERTIFICATE, KEY, KEY),
        bundle_text(HEAD, CERTIFICATE, b"-----BEGIN X"),
        bundle_text(HEAD, CERTIFICATE, KEY.replace(b"PRIVATE", b"ENCRYPTED PRIVATE")), "#" * (LARGEST + 1),
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"a\.pem") as caught:
        read_bundle(write(tmp_path / "a.pem", text))
    assert "hush" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(max_size=8))
def test_any_damage_is_survived(tmp_path: Path, at: int, instead: bytes) -> None:
    whole = bundle_text(HEAD, CERTIFICATE, KEY, OTHER).encode()
    path = tmp_path / "damaged.pem"
    path.touch(0o600)
    path.write_bytes(whole[:at] + instead + whole[at + len(instead) :])
    try:
        read_bundle(path).address()
    except (InputError, UsageError) as error:
        assert "c2VjcmV0" not in str(error)


def test_files_that_cannot_be_used(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_bundle(tmp_path / "none.pem")
    with pytest.raises(InputError, match="directory"):
        read_bundle(tmp_path)
    (tmp_path / "binary.pem").touch(0o600)
    (tmp_path / "binary.pem").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no bundle"):
        read_bundle(tmp_path / "binary.pem")
    bundle.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        read_bundle(bundle)


def test_damaged_certificates_are_found_before_connecting(bundle: Path) -> None:
    with pytest.raises(InputError, match="damaged"):
        client_context(read_bundle(bundle).address())
