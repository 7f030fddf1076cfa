"""A group's own certificate authority: the only module that imports cryptography.

ECDSA on P-256, since a small board signs with it in milliseconds. Nobody outside the group has to trust it, and it
signs nothing but one server's certificate, the members' certificates, and the list of those that were revoked.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from legion_iot.errors import InputError, UsageError

# A group is not rebuilt because a date has passed: what is lost is revoked, and all that is issued ends with the CA.
AUTHORITY_DAYS = 20 * 365
SERVER_DAYS = 10 * 365
MEMBER_DAYS = 10 * 365
# Boards without a clock of their own start with the time of their last shutdown.
BACKDATED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes
    serial: int
    expires: datetime


class Authority:
    """The private key of a group, and what may be asked of it."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, now: datetime) -> Authority:
        """A new one; its name is like no other's, so that a foreign certificate is known for one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"legion-iot {secrets.token_hex(6)}")
        usage = _key_usage(signs_certificates=True)
        certificate = (
            _builder(name, key, now, now + timedelta(days=AUTHORITY_DAYS))
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate: bytes, key: bytes) -> Authority:
        """From two PEM texts; raises InputError."""
        try:
            loaded = serialization.load_pem_private_key(key, password=None)
            parsed = x509.load_pem_x509_certificate(certificate)
        except (ValueError, TypeError) as error:
            raise InputError("the authority's key or certificate is broken: restore both from a backup") from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != parsed.public_key():
            raise InputError("the authority's key and certificate do not belong together: restore both from a backup")
        return cls(parsed, loaded)

    @property
    def certificate(self) -> bytes:
        """Its certificate, PEM: what members trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """Its private key, PEM."""
        return _key_pem(self._key)

    def server(self, hosts: Sequence[str], now: datetime) -> Issued:
        """A certificate for a broker under these host names and addresses; raises UsageError for one that is none."""
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue("broker", ExtendedKeyUsageOID.SERVER_AUTH, now, SERVER_DAYS, names)

    def member(self, name: str, now: datetime, days: int = MEMBER_DAYS) -> Issued:
        """A certificate for one member of the group, for that many days or as long as the authority's own."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, now, days)

    def revocations(self, revoked: Mapping[int, datetime], now: datetime) -> bytes:
        """The list of revoked serial numbers, PEM; good as long as the authority, since it never leaves the broker."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(self._certificate.not_valid_after_utc)
        )
        for serial, when in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        name: str,
        purpose: x509.ObjectIdentifier,
        now: datetime,
        days: int,
        names: x509.SubjectAlternativeName | None = None,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        expires = min(now + timedelta(days=days), self._certificate.not_valid_after_utc).replace(microsecond=0)
        builder = (
            _builder(_name(name), key, now, expires)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        signed = builder.sign(self._key, hashes.SHA256())
        pem = signed.public_bytes(serialization.Encoding.PEM)
        return Issued(pem, _key_pem(key), signed.serial_number, expires)


def valid_until(certificate: bytes) -> datetime:
    """When a certificate (the first of a PEM text) ends; raises InputError."""
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise InputError("the certificate is damaged; fetch the bundle again") from error


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, expires) - BACKDATED)
        .not_valid_after(expires)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    if len(host) > 253 or not all(_is_label(label) for label in labels):
        raise UsageError(f"{host!r} is neither a host name nor an address (--host)")
    return x509.DNSName(host)


def _is_label(label: str) -> bool:
    body = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and body.isascii() and body.isalnum() and label[0] != "-" and label[-1] != "-"


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
