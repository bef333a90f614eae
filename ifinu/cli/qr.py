"""Pairs a WhatsApp instance with a phone in a terminal: draws each new QR code until the instance is connected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ifinu.cli import terminal

if TYPE_CHECKING:
    from ifinu.gateway import Management, QrCode

_EVERY_S = 1.0
# How often the code is asked for again; one lives for 20 s. A request that meets the drop after the scan would open a
# second connection, so there are few of them.
_RENEWED_S = 5.0
_CLOSED_S = 15.0  # longer than the gateway takes to reconnect, also after the scan
_DROPS = 3  # a normal pairing drops its connection once, after the scan
_BORDER = 2  # light modules around the code, which scanners need to find its edge
_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


class NotPaired(Exception):  # noqa: N818 - a state, not an error
    """The time is over and the code was not scanned."""


class Flapping(Exception):  # noqa: N818 - likewise
    """The phone is paired, but the instance's connection keeps opening and closing."""


def codes(gateway: Management, name: str, *, number: str | None, wait_s: float) -> Iterator[QrCode]:
    """
    Yield each code that pairs an instance, until the instance is connected.

    `connect` opens a connection if the state is `close`, which it also is for a moment after the scan; and two
    connections of one instance disconnect each other. So the state is asked first, and `connect` is called for the
    first code, while the instance is connecting, and when it has been closed for longer than a reconnection takes.

    Args:
        number: Digits of the phone, for a pairing code beside the QR code.

    Raises:
        NotPaired: The instance is not connected in that time.
        Flapping: The instance connects and does not stay connected.
        GatewayError: The gateway does not know the instance, or does not answer.
    """
    from ifinu.gateway import ConnectionState, flaps

    until = time.monotonic() + wait_s
    shown, drops, before = "", 0, None
    closed_at = time.monotonic() if _was_open(gateway, name) else float("-inf")
    renewed_at = float("-inf")
    while True:
        state = gateway.connection_state(name)
        now = time.monotonic()
        if state is ConnectionState.OPEN:
            if name in flaps.watch(gateway, [name])[1]:
                raise Flapping
            return
        if state is ConnectionState.CLOSE and before not in (None, ConnectionState.CLOSE):
            closed_at, drops = now, drops + 1
            if drops >= _DROPS:
                raise Flapping
        due_at = closed_at + _CLOSED_S if state is ConnectionState.CLOSE else renewed_at + _RENEWED_S
        if now >= due_at:
            found = gateway.connect_instance(name, number=number)
            closed_at = now
            if found.qr is not None and found.qr.code != shown:
                shown = found.qr.code or ""
                yield found.qr
            if shown:
                renewed_at = now
        before = state
        if time.monotonic() >= until:
            raise NotPaired
        time.sleep(_EVERY_S)


def _was_open(gateway: Management, name: str) -> bool:
    """Whether the gateway's database has it as connected: then it is only closed for a moment, and reconnects."""
    return any(one.name == name and one.state.value == "open" for one in gateway.fetch_instances())


def show(coming: Iterator[QrCode], out: Console) -> None:
    """Draw each code in place of the last; without a terminal, print them one below the other."""
    if not out.is_terminal:
        for qr in coming:
            out.print(_page(qr, out))
        return
    with Live(console=out, auto_refresh=False, transient=True, vertical_overflow="visible") as live:
        for qr in coming:
            live.update(_page(qr, out), refresh=True)


def print_json(coming: Iterator[QrCode], name: str) -> None:
    """Print each code as a JSON object on a line."""
    for qr in coming:
        terminal.print_json({"name": name, "state": "connecting", "code": qr.code, "pairing_code": qr.pairing_code})


def drawn(code: str, *, coloured: bool) -> Text:
    """
    A QR code as text, two rows of modules a line.

    Args:
        coloured: Draw black on white. Otherwise draw the light modules, as for a dark terminal.
    """
    import segno  # needed by this command alone

    rows = [[bool(module) for module in row] for row in segno.make(code, micro=False).matrix_iter(border=_BORDER)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    if not coloured:
        rows = [[not module for module in row] for row in rows]
    lines = [
        "".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
    return Text("\n".join(lines), style="black on white" if coloured else "", no_wrap=True, overflow="crop")


def _page(qr: QrCode, out: Console) -> RenderableType:
    page: list[RenderableType] = ["On the phone: WhatsApp, Linked devices, Link a device."]
    if qr.code:
        code = drawn(qr.code, coloured=out.color_system is not None)
        if (width := code.plain.index("\n")) > out.width:
            page.append(f"[yellow]This terminal is too narrow for the QR code, which needs {width} columns.[/]")
        page.append(code)
    if qr.pairing_code:
        page.append(f"Or choose to link with the phone number, and type [bold]{terminal.plain(qr.pairing_code)}[/]")
    page.append("[dim]The code is renewed now and then. Press Ctrl-C to stop.[/]")
    return Group(*page)
