"""TLS towards a broker: whom we trust, what we show, and what a failure means."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from legion_iot.errors import (
    BrokerError,
    CertificateExpiredError,
    CertificateRevokedError,
    ForeignCertificateError,
    InputError,
)
from legion_iot.transport.connection import BrokerAddress

# Of OpenSSL's reasons why a certificate is not accepted (x509_vfy.h).
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)


def client_context(address: BrokerAddress) -> ssl.SSLContext:
    """What to speak TLS with; raises InputError where certificate or key cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if address.authorities is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=address.authorities)
        if address.certificate is not None:
            # The password of an encrypted key is nobody's to type here.
            context.load_cert_chain(address.certificate, password="")
    except OSError as error:  # ssl.SSLError among them
        reason = getattr(error, "reason", None) or error.strerror or error
        raise InputError(f"{address.certificate or 'the bundle'}: certificate or key is damaged ({reason})") from error
    return context


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate holds, in seconds since 1970."""

    begins: float
    ends: float


def broker_validity(address: BrokerAddress, timeout: float) -> Validity | None:
    """Of the certificate that a broker shows; None where it shows none that we trust, which connecting explains."""
    context = client_context(address)
    try:
        with (
            socket.create_connection((address.host, address.port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=address.host) as secured,
        ):
            shown = secured.getpeercert()
    except OSError:  # ssl.SSLError among them
        return None
    return _validity(shown) if shown else None


def authority_validity(address: BrokerAddress) -> Validity | None:
    """Of the group's authority, whichever of its certificates ends first; None where the system's are trusted."""
    if address.authorities is None:
        return None
    known = [_validity(certificate) for certificate in client_context(address).get_ca_certs()]
    return min(known, key=lambda each: each.ends, default=None)


def _validity(certificate: Mapping[str, Any]) -> Validity:
    begins, ends = (ssl.cert_time_to_seconds(certificate[key]) for key in ("notBefore", "notAfter"))
    return Validity(float(begins), float(ends))


def explain(error: ssl.SSLError, address: BrokerAddress) -> BrokerError:
    """Why there is no agreement on TLS, as the error that has its exit code."""
    where = f"the broker at {address.endpoint}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _not_trusted(error, where)
    ours = f"the certificate in {address.certificate}" if address.certificate else "no certificate"
    reason = (error.reason or "").upper()
    if "CERTIFICATE_REVOKED" in reason:
        return CertificateRevokedError(f"{where} has revoked {ours}: ask for a new bundle (legion broker add-device)")
    if "CERTIFICATE_EXPIRED" in reason:
        return CertificateExpiredError(f"{where} says that {ours} has expired: ask for a new bundle")
    if "CERTIFICATE_REQUIRED" in reason:
        return ForeignCertificateError(f"{where} wants a certificate: give a bundle that it issued (--credentials)")
    if any(alert in reason for alert in ("UNKNOWN_CA", "BAD_CERTIFICATE", "DECRYPT_ERROR", "UNSUPPORTED_CERTIFICATE")):
        return ForeignCertificateError(f"{where} did not issue {ours}: give the bundle of this broker (--credentials)")
    return BrokerError(f"{where} and we do not agree on TLS: {error.reason or error}")


def _not_trusted(error: ssl.SSLCertVerificationError, where: str) -> BrokerError:
    if error.verify_code == _EXPIRED:
        return CertificateExpiredError(f"the certificate of {where} has expired, or this machine's clock is wrong")
    if error.verify_code == _NOT_YET_VALID:
        return CertificateExpiredError(f"the certificate of {where} is not valid yet: set this machine's clock")
    if error.verify_code in _OTHER_NAME:
        return ForeignCertificateError(f"the certificate of {where} is for other names: use one that it was made for")
    return ForeignCertificateError(
        f"{where} is not the one the bundle is for: another authority signed its certificate"
    )
