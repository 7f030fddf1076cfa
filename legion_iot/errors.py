"""Every error a user can meet, each with the exit code its command ends with.

The message of an error is one line that names the cause and the cure. `legion` and `legion-agent` print it and
exit with `exit_code`; a class that is not listed here is a defect of ours.
"""

from __future__ import annotations


class LegionError(Exception):
    """Something a user can cause or meet; the message names the cause and the cure."""

    exit_code = 1


class UsageError(LegionError):
    """A flag or an argument that cannot be right."""

    exit_code = 2


class InputError(LegionError):
    """A file or picture that is missing or cannot be read as what it should be."""

    exit_code = 3


class ModelError(LegionError):
    """A file that is no TFLite model, or a model that cannot be run or cut as asked."""

    exit_code = 4


class BrokerError(LegionError):
    """The MQTT broker cannot be started, reached, or refuses us."""

    exit_code = 5


class DownloadError(LegionError):
    """A package registry is out of reach, or what it sent is not what was pinned."""

    exit_code = 6


class AgentError(LegionError):
    """An agent did not start, vanished, or could not carry out its work."""

    exit_code = 7


class RequestError(LegionError):
    """An inference request ended with a reason instead of a result."""

    exit_code = 8


class RuntimeMissingError(LegionError):
    """No TFLite runtime is installed on this machine."""

    exit_code = 9


class ProtocolError(LegionError):
    """A message that does not follow the protocol; it is dropped and counted, never acted upon."""

    exit_code = 10


class CertificateRevokedError(BrokerError):
    """The broker took our certificate back."""

    exit_code = 11


class CertificateExpiredError(BrokerError):
    """A certificate, ours or the broker's, is of another time than the clock says."""

    exit_code = 12


class ForeignCertificateError(BrokerError):
    """The broker does not know who issued our certificate, or we do not know who issued the broker's."""

    exit_code = 13


class PasswordRefusedError(BrokerError):
    """The broker knows no such user, or the password is another."""

    exit_code = 14


class NameTakenError(AgentError):
    """Somebody else has our name in the group."""

    exit_code = 15
