"""A TCP proxy that can reset its connections, or accept and discard everything."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading


class Proxy:
    """Forwards a local port, by default a free one, to another in a thread."""

    def __init__(self, target_port: int, *, port: int = 0) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._silent = threading.Event()
        self._cut, self._was_cut = threading.Event(), threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection, and return once that is done; new ones are served."""
        self._was_cut.clear()
        self._cut.set()
        self._was_cut.wait(20)

    def silence(self, on: bool) -> None:
        """Discard all data on old and new connections, like a network without a route."""
        self._silent.set() if on else self._silent.clear()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(5)
        self._reset_all()
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping:
            if self._cut.is_set():
                self._cut.clear()
                self._reset_all()
                self._was_cut.set()
            for key, _ in self._selector.select(0.02):
                with contextlib.suppress(OSError):
                    self._accept() if key.fileobj is self._listener else self._forward(key.fileobj)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target_port))
        for one, other in ((near, far), (far, near)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, one: socket.socket) -> None:
        other = self._peers.get(one)
        if other is None:
            return
        try:
            data = one.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(one)
            self._drop(other)
        elif not self._silent.is_set():
            other.sendall(data)

    def _reset_all(self) -> None:
        for one in list(self._peers):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
            self._drop(one)

    def _drop(self, one: socket.socket) -> None:
        if self._peers.pop(one, None) is not None:
            self._selector.unregister(one)
            one.close()
