"""
Instances whose connection opens and closes without end.

Two sockets of one instance in one gateway process kick each other: WhatsApp closes the older with 440, the gateway
reconnects it at once, and so on until the process restarts. The gateway's database says `open` all the while, so the
state has to be asked for a few times. Without a way to WhatsApp an instance flaps too, and is never open.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ifinu.errors import GatewayError
from ifinu.gateway.factory import Gateway
from ifinu.gateway.message_records import ConnectionState

FIX = (
    "two connections of it disconnect each other (WhatsApp's 440), or the gateway cannot reach WhatsApp: restart the "
    "gateway process that holds it, and do not connect it again meanwhile"
)

_EVERY_S = 0.15
_LOOKS = 14  # about two seconds
_LOOKS_AT_AN_OPEN_ONE = 5  # one that flaps is open for moments
_CHANGES = 3  # one more than a connection that was lost and came back


def watch(gateway: Gateway, instances: Iterable[str]) -> tuple[dict[str, ConnectionState], set[str]]:
    """
    Ask for the states of instances for up to two seconds, and for less than one where all are open.

    Returns:
        The last state of each that could be asked, and those that flap.
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
