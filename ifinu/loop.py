"""
The event loop of a worker: its tasks are greenlets of one thread, and wait here while others run.

    task ── Stream.receive, Stream.send_all, sleep, in_thread, park ──▶ other tasks run until the wait is over

Kombu's hub drives the loop: it watches the loop's selector as one more file (`Loop.attach`). While the hub stands still
(Redis is being connected to again, or a warm shutdown waits for the tasks), `run_until` and `run_beside` drive it.

The same functions, called outside of a task, block their thread. So one piece of code serves workers, commands and
tests.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import contextvars
import functools
import heapq
import itertools
import math
import select
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Protocol, TypeVar

import greenlet
import structlog

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_LONGEST_POLL_S = 1.0
_FEWEST_TIMERS = 256  # from which it pays to look for cancelled ones
CHUNK_BYTES = 65_536  # that one read of a socket takes at most
# What a non-blocking socket raises when it has to be waited for.
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TRY_AGAIN_S = 0.05
_EXPIRED = object()


class Hub(Protocol):
    """What the loop needs of Kombu's hub."""

    on_tick: set[Callable[[], None]]

    def add_reader(self, fds: Any, callback: Callable[..., None], *args: Any) -> None: ...

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Any: ...


class Timer:
    """A call at a time; see `Loop.call_at`."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def is_cancelled(self) -> bool:
        return self._callback is None

    def cancel(self) -> None:
        """Never make the call."""
        self._callback = None

    def fire(self) -> None:
        """Make the call, unless it is cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Task(greenlet.greenlet):
    """A greenlet of a loop."""

    loop: Loop


class Watch:
    """
    The events of one socket, until it is closed.

    Args:
        loop: The loop.
        sock: A non-blocking socket.
        on_readable: Called whenever there is something to read.
    """

    __slots__ = ("_fd", "_loop", "_on_readable", "_on_writable")

    def __init__(self, loop: Loop, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = sock.fileno()
        self._on_readable = on_readable
        self._on_writable: Callable[[], None] | None = None
        loop.selector.register(self._fd, selectors.EVENT_READ, self._on_event)

    def once_writable(self, callback: Callable[[], None], *, only: bool) -> None:
        """Call back once, when the socket takes more data; `only`: and do not watch for anything to read until then."""
        self._on_writable = callback
        events = selectors.EVENT_WRITE if only else selectors.EVENT_READ | selectors.EVENT_WRITE
        self._loop.selector.modify(self._fd, events, self._on_event)

    def close(self) -> None:
        """Watch no more; call it before the socket is closed. It may be called twice."""
        if self._fd >= 0:
            self._loop.selector.unregister(self._fd)
            self._fd = -1

    def _on_event(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and self._on_writable is not None and self._fd >= 0:
            callback, self._on_writable = self._on_writable, None
            self._loop.selector.modify(self._fd, selectors.EVENT_READ, self._on_event)
            callback()
        if mask & selectors.EVENT_READ and self._fd >= 0:  # the call before may have closed it
            self._on_readable()


class Loop:
    """
    The loop of the thread that makes it. Its methods are for that thread, unless they say otherwise.

    Attributes:
        tasks: How many tasks have started and not ended.
        turned_at: When the loop last turned, by `time.monotonic`; other threads may read it.
        thread: Identity of the loop's thread.
        pipelines: The connections that its tasks share, by server; closed with the loop.
    """

    def __init__(self) -> None:
        self.tasks = 0
        self.turned_at = monotonic()
        self.thread = threading.get_ident()
        self.pipelines: dict[tuple[Any, ...], Any] = {}
        self.selector = selectors.DefaultSelector()
        self._root = greenlet.getcurrent()
        self._idle: list[_Task] = []
        self._hub: Hub | None = None
        self._soon: collections.deque[Callable[[], None]] = collections.deque()
        self._flushes: collections.deque[Callable[[], None]] = collections.deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._tidy_at = _FEWEST_TIMERS
        self._numbers = itertools.count()
        self._armed_at = float("inf")
        self._alarm: Any = None  # the hub's timer for the first of ours
        self._threads = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="ifinu-loop")
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        Watch(self, self._wakes, self._drain)

    # -- for the thread's root

    def attach(self, hub: Hub) -> None:
        """Let a hub drive the loop; again after each of its resets, which forget the loop."""
        self._hub = hub
        self._armed_at = float("inf")
        hub.add_reader(self.selector.fileno(), self.poll, 0.0)  # epoll and kqueue have one
        hub.on_tick.add(self.turn)
        self._arm()

    def spawn(self, run: Callable[[], object]) -> None:
        """Start a task: at once, or soon if the caller is a task itself."""
        self.tasks += 1
        if self._idle:
            task = self._idle.pop()
            task.gr_context = None  # each task begins with an empty one
        else:
            task = _Task(self._serve, self._root)
            task.loop = self
        if greenlet.getcurrent() is self._root:
            task.switch(run)
        else:
            self._soon.append(functools.partial(task.switch, run))

    def turn(self) -> None:
        """Do what was left for the end of this turn: call before each wait for events."""
        self.turned_at = monotonic()
        self._run_soon()
        while self._flushes:
            self._flushes.popleft()()

    def poll(self, timeout_s: float) -> None:
        """Wait for events, run the tasks that waited for them, then those whose time is over."""
        for key, mask in self.selector.select(timeout_s):
            key.data(mask)
        self._run_soon()
        self._fire_timers()

    def run_until(self, done: Callable[[], bool]) -> None:
        """Drive the loop without a hub."""
        hub, self._hub = self._hub, None
        try:
            while not done():
                self.turn()
                left_s = self._timers[0][0] - monotonic() if self._timers else _LONGEST_POLL_S
                self.poll(0.0 if self._soon or self._flushes else min(max(left_s, 0.0), _LONGEST_POLL_S))
        finally:
            self._hub, self._armed_at = hub, float("inf")
            self._arm()

    def run_beside(self, call: Callable[[], _T]) -> _T:
        """Drive the loop while a helper thread makes a blocking call; returns or raises what the call does."""
        future = self._threads.submit(call)
        future.add_done_callback(lambda _: self.call_from_thread(_nothing))
        self.run_until(future.done)
        return future.result()

    def close(self) -> None:
        """Close what belongs to the loop; no task may be under way."""
        for pipeline in self.pipelines.values():
            pipeline.close()
        for task in self._idle:
            task.throw()
        self._threads.shutdown(wait=False)
        self.selector.close()
        self._waker.close()
        self._wakes.close()

    # -- for tasks and callbacks

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back from the root, before the loop waits again."""
        self._soon.append(callback)

    def call_from_thread(self, callback: Callable[[], None]) -> None:
        """Call back from the root soon; any thread may ask for it."""
        self._soon.append(callback)
        with contextlib.suppress(BlockingIOError, OSError):  # it is full of wakes already, or closed
            self._waker.send(b"\0")

    def at_turn(self, flush: Callable[[], None]) -> None:
        """Call back once at the end of this turn, when each task that can run now has run."""
        self._flushes.append(flush)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back at a time of `time.monotonic`."""
        if len(self._timers) >= self._tidy_at:
            self._tidy()
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        if when < self._armed_at:
            self._arm()
        return timer

    def park(self, deadline: float | None = None) -> Any:
        """
        Let the calling task wait until another part switches to it, and return what that part passed.

        Args:
            deadline: Time of `time.monotonic`; None to wait for ever.

        Raises:
            TimeoutError: The deadline has passed.
        """
        if deadline is None:
            return self._root.switch()
        timer = self.call_at(deadline, functools.partial(greenlet.getcurrent().switch, _EXPIRED))
        got = self._root.switch()
        timer.cancel()
        if got is _EXPIRED:
            raise TimeoutError("timed out")
        return got

    def in_thread(self, call: Callable[[], _T]) -> _T:
        """Make a blocking call in a helper thread while the calling task waits."""
        resume = greenlet.getcurrent().switch
        future = self._threads.submit(contextvars.copy_context().run, call)
        future.add_done_callback(lambda _: self.call_from_thread(resume))
        self._root.switch()
        return future.result()

    def _serve(self, run: Callable[[], object]) -> None:
        """Run tasks one after the other: a new greenlet for each would map and unmap memory for its stack."""
        here = greenlet.getcurrent()
        assert isinstance(here, _Task)  # noqa: S101 - `spawn` made it
        while True:
            self._run(run)
            self._idle.append(here)
            run = self._root.switch()

    def _run(self, run: Callable[[], object]) -> None:
        try:
            run()
        except Exception:
            log.exception("ifinu.task.failed")
        finally:
            self.tasks -= 1

    def _run_soon(self) -> None:
        while self._soon:
            self._soon.popleft()()

    def _fire_timers(self) -> None:
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].fire()
            self._run_soon()
        self._arm()

    def _tidy(self) -> None:
        """Forget cancelled timers: an answer in time leaves its deadline behind, a minute or more ahead."""
        self._timers = [entry for entry in self._timers if not entry[2].is_cancelled]
        heapq.heapify(self._timers)
        self._tidy_at = max(_FEWEST_TIMERS, 2 * len(self._timers))

    def _arm(self) -> None:
        """Have the hub look when the next timer is due."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        if self._hub is None or not self._timers or self._timers[0][0] >= self._armed_at:
            return
        if self._alarm is not None:  # one at a time: a hub that fires many in one turn sleeps for a second afterwards
            self._alarm.cancel()
        self._armed_at = self._timers[0][0]
        self._alarm = self._hub.call_later(max(0.0, self._armed_at - monotonic()), self._on_hub_timer)

    def _on_hub_timer(self) -> None:
        self._armed_at, self._alarm = float("inf"), None
        self.poll(0.0)  # what has arrived by now is in time

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakes.recv(4096)


class Stream:
    """
    A connected socket that is read and written with deadlines, by one caller at a time.

    Args:
        sock: The socket, plain or TLS. It becomes non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._watch: Watch | None = None
        self._task: greenlet.greenlet | None = None
        self._quiet = select.poll()
        self._quiet.register(sock, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether there is nothing to read, neither data nor the end."""
        return not self._quiet.poll(0)

    def send_all(self, data: bytes, deadline: float) -> None:
        """
        Write all of the data.

        Args:
            data: The data.
            deadline: Time of `time.monotonic`.

        Raises:
            OSError: The connection broke, or the deadline passed (TimeoutError); some data may have been written.
        """
        view = memoryview(data)
        while True:
            try:
                sent = self._sock.send(view)
            except NOT_NOW as exc:
                self._wait(deadline, write=not isinstance(exc, ssl.SSLWantReadError))
            else:
                view = view[sent:]
                if not view:
                    return

    def receive(self, deadline: float) -> bytes:
        """
        Read what has arrived, at least one byte; empty at the end of the stream.

        Args:
            deadline: Time of `time.monotonic`.

        Raises:
            OSError: The connection broke, or the deadline passed (TimeoutError).
        """
        if not self._tls:  # TLS may hold data already that the socket has not any more
            self._wait(deadline, write=False)
        while True:
            try:
                return self._sock.recv(CHUNK_BYTES)
            except NOT_NOW as exc:
                self._wait(deadline, write=isinstance(exc, ssl.SSLWantWriteError))

    def close(self) -> None:
        """Close the socket."""
        if self._watch is not None:
            self._watch.close()
        self._sock.close()

    def _wait(self, deadline: float, *, write: bool) -> None:
        loop, left_s = current(), deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        if loop is None:
            waits = select.poll()
            waits.register(self._sock, select.POLLOUT if write else select.POLLIN)
            if not waits.poll(left_s * 1000):
                raise TimeoutError("timed out")
            return
        if self._watch is None:
            self._watch = Watch(loop, self._sock, self._resume)
        self._task = greenlet.getcurrent()
        try:
            if write:
                self._watch.once_writable(self._resume, only=True)
            loop.park(deadline)
        finally:
            self._task = None

    def _resume(self) -> None:
        if self._task is not None:
            self._task.switch()
        elif self._watch is not None:  # the peer closed it, or wrote what nobody asked for: it cannot be used again
            self._watch.close()
            self._watch = None


def current() -> Loop | None:
    """The loop, if the caller is one of its tasks; else None."""
    task = greenlet.getcurrent()
    return task.loop if type(task) is _Task else None


def after(seconds: float) -> float:
    """A deadline: the time of `time.monotonic` after so many seconds."""
    return monotonic() + seconds


def in_thread(call: Callable[[], _T]) -> _T:
    """Make a blocking call (DNS, a TLS handshake, `requests`), in a helper thread if the caller is a task."""
    loop = current()
    return call() if loop is None else loop.in_thread(call)


def result_of(future: concurrent.futures.Future[_T], timeout_s: float) -> _T:
    """
    Wait for what a thread works out; returns or raises what the thread does.

    Raises:
        TimeoutError: It takes longer than that; the thread goes on.
    """
    loop = current()
    if loop is None:
        return future.result(timeout_s)
    waiting = [greenlet.getcurrent().switch]  # emptied once this task does not wait any more
    future.add_done_callback(lambda _: loop.call_from_thread(lambda: waiting.pop()() if waiting else None))
    try:
        loop.park(after(timeout_s))
    finally:
        waiting.clear()
    return future.result(0)


def sleep(seconds: float) -> None:
    """Wait."""
    loop = current()
    if loop is None:
        time.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        loop.park(monotonic() + seconds)


def acquire(lock: threading.Lock, timeout_s: float = math.inf) -> bool:
    """Acquire a lock that another task of this thread may hold while it waits; False if it takes longer than that."""
    if current() is None:
        return lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))
    deadline = after(timeout_s)
    while not lock.acquire(blocking=False):
        if monotonic() >= deadline:
            return False
        sleep(_TRY_AGAIN_S)
    return True


@contextlib.contextmanager
def held(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock that another task of this thread may hold while it waits."""
    acquire(lock)
    try:
        yield
    finally:
        lock.release()


def _nothing() -> None:
    pass
