"""Pairing a WhatsApp instance with a phone, in a terminal: a QR code that is drawn anew until it is connected."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ifinu.cli import terminal

if TYPE_CHECKING:
    from ifinu.gateway import Gateway, QrCode

_EVERY_S = 1.0
_BORDER = 2  # light modules around it; readers want to tell it from what is beside it
_BLOCKS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}


class NotPaired(Exception):  # noqa: N818 - says what is so
    """The time is over and nobody has scanned it."""


def codes(gateway: Gateway, name: str, *, number: str | None, wait_s: float) -> Iterator[QrCode]:
    """
    Each code that pairs an instance, as they follow one another; it ends when the instance is connected.

    Args:
        gateway: It.
        name: The instance.
        number: Digits of the phone, for a pairing code beside the QR code.
        wait_s: For how long, in seconds.

    Raises:
        NotPaired: It is not connected in that time.
        GatewayError: The gateway does not know it, or cannot be asked.
    """
    until = time.monotonic() + wait_s
    shown = ""
    while True:
        found = gateway.connect_instance(name, number=number)
        if found.state.value == "open":
            return
        if found.qr is not None and found.qr.code != shown:
            shown = found.qr.code or ""
            yield found.qr
        if time.monotonic() >= until:
            raise NotPaired
        time.sleep(_EVERY_S)


def show(coming: Iterator[QrCode], out: Console) -> None:
    """
    Draw each code in place of the one before; one below the other where there is no terminal.

    Raises:
        NotPaired: As `codes`.
        GatewayError: As `codes`.
    """
    if not out.is_terminal:
        for qr in coming:
            out.print(_page(qr, out))
        return
    with Live(console=out, auto_refresh=False, transient=True, vertical_overflow="visible") as live:
        for qr in coming:
            live.update(_page(qr, out), refresh=True)


def told(coming: Iterator[QrCode], name: str) -> None:
    """
    The same for a program: an object a line.

    Raises:
        NotPaired: As `codes`.
        GatewayError: As `codes`.
    """
    for qr in coming:
        terminal.print_json({"name": name, "state": "connecting", "code": qr.code, "pairing_code": qr.pairing_code})


def drawn(code: str, *, coloured: bool) -> Text:
    """
    A QR code, two rows of it a line.

    Args:
        code: The text in it.
        coloured: The colours are ours: black on white. Else light modules are drawn, as for a dark terminal.
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
            page.append(f"[yellow]This terminal is too narrow for the code: it needs {width} columns.[/]")
        page.append(code)
    if qr.pairing_code:
        page.append(f"Or link with the phone number, and type [bold]{terminal.plain(qr.pairing_code)}[/]")
    page.append("[dim]A new code comes every now and then; Ctrl-C ends.[/]")
    return Group(*page)
