"""What Mosquitto reads, as texts: its configuration, the access rules and the passwords of a group."""

from __future__ import annotations

import pwd
from importlib import resources
from pathlib import Path
from string import Template

from legion_iot.wire.access import check_member, grants
from legion_iot.wire.topics import Topics
from legion_iot_broker.access import acl_file
from legion_iot_broker.limits import DEFAULT_LIMITS
from legion_iot_broker.records import Roll, Settings

_WEBSOCKETS = Template("""
# For browsers, which have no certificate to show: TLS, with name and password.
listener $port
protocol websockets
max_connections $max_clients
certfile $directory/mosquitto/server.crt
keyfile $directory/mosquitto/server.key
""")


def configuration(directory: Path, settings: Settings, account: pwd.struct_passwd | None) -> str:
    """mosquitto.conf for a broker's directory; `account` is whom a Mosquitto of root's becomes."""
    limits = DEFAULT_LIMITS
    websockets = ""
    if settings.websockets_port:
        websockets = _WEBSOCKETS.substitute(
            port=settings.websockets_port, directory=directory, max_clients=limits.clients
        )
    template = resources.files("legion_iot_broker").joinpath("group.conf.template").read_text(encoding="utf-8")
    return Template(template).substitute(
        directory=directory,
        user_line=f"user {account.pw_name}" if account else "",
        port=settings.port,
        local_port=settings.local_port,
        websockets=websockets,
        max_packet_bytes=limits.packet_bytes,
        max_in_flight=limits.in_flight,
        max_queued_messages=limits.queue_messages,
        max_queued_bytes=limits.queue_bytes,
        max_memory_bytes=limits.memory_bytes,
        max_clients=limits.clients,
    )


def passwords(roll: Roll) -> str:
    """The password file of those who are let in."""
    return "".join(f"{member.name}:{member.password_hash}\n" for member in roll.present)


def access_rules(roll: Roll, base_topic: str) -> str:
    """The ACL file: what each member is granted."""
    topics = Topics(base_topic)
    return acl_file((each.name, grants(check_member(each.role, each.name), each.name, topics)) for each in roll.present)
