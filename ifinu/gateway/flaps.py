"""
Flapping instances: the connection opens and closes without end.

Two sockets of one instance in one gateway process disconnect each other: WhatsApp closes the older one with 440, the
gateway reconnects it at once, and so on until the process restarts. Meanwhile the gateway's database says `open`, so
only repeated queries of the state show it. An instance also flaps, and is never open, if the gateway cannot reach
WhatsApp.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ifinu.errors import GatewayError
from ifinu.gateway.management import Management
from ifinu.gateway.message_records import ConnectionState

FIX = (
    "two connections of it disconnect each other (WhatsApp's 440), or the gateway cannot reach WhatsApp: restart the "
    "gateway process that holds it, and do not connect it again meanwhile"
)

_EVERY_S = 0.15
_LOOKS = 14  # about two seconds
_LOOKS_AT_AN_OPEN_ONE = 5  # a flapping instance is open for moments
_CHANGES = 3  # one more than a connection that was lost once and came back


def watch(gateway: Management, instances: Iterable[str]) -> tuple[dict[str, ConnectionState], set[str]]:
    """
    Query the states of instances for up to two seconds, or less than one if all are open.

    Returns:
        The last state of each instance that answered, and the names of those that flap.
    """
    seen: dict[str, list[ConnectionState]] = {name: [] for name in instances}
    changes = dict.fromkeys(seen, 0)
    for look in range(_LOOKS):
        watched = [name for name in seen if look < _LOOKS_AT_AN_OPEN_ONE or set(seen[name]) - {ConnectionState.OPEN}]
        if not watched:
            break
        if look:
            time.sleep(_EVERY_S)
        for name in watched:
            try:
                state = gateway.connection_state(name)
            except GatewayError:
                continue
            changes[name] += bool(seen[name]) and state is not seen[name][-1]
            seen[name].append(state)
    return {name: states[-1] for name, states in seen.items() if states}, {
        name for name, count in changes.items() if count >= _CHANGES
    }
