from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import functools
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ifinu import loop as loop_module
from ifinu.loop import Loop, Stream, acquire, after, current, held, in_thread, result_of, sleep


@pytest.fixture
def loop() -> Iterator[Loop]:
    with contextlib.closing(Loop()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def run(loop: Loop, *tasks) -> None:
    for task in tasks:
        loop.spawn(task)
    loop.run_until(lambda: not loop.tasks)


def test_a_task_knows_its_loop_and_nothing_else_has_one(loop: Loop):
    seen = []
    run(loop, lambda: seen.append(current()))
    assert seen == [loop]
    assert current() is None
    assert in_thread(current) is None


def test_a_task_that_waits_lets_others_run(loop: Loop):
    order: list[str] = []

    def task(name: str, until: str) -> None:
        order.append(f"{name} begins")
        while until not in order:
            sleep(0.01)
        order.append(f"{name} ends")

    run(loop, lambda: task("a", until="b ends"), lambda: task("b", until="b begins"))
    assert order == ["a begins", "b begins", "b ends", "a ends"]


def test_a_task_that_another_task_starts_runs_beside_it(loop: Loop):
    order: list[str] = []

    def inner() -> None:
        order.append("inner")
        sleep(0.01)
        order.append("inner ends")

    def outer() -> None:
        loop.spawn(inner)
        order.append("outer")
        sleep(0.03)
        order.append("outer ends")

    run(loop, outer)
    assert order == ["outer", "inner", "inner ends", "outer ends"]


def test_a_task_that_raises_ends_alone(loop: Loop):
    ended = []

    def fails() -> None:
        raise RuntimeError("a bug")

    run(loop, fails, lambda: ended.append(sleep(0.01)))
    assert ended == [None]
    assert loop.tasks == 0


def test_a_blocking_call_runs_in_a_thread_and_its_error_comes_back(loop: Loop):
    beside, caught, threads = [], [], []
    done = threading.Event()

    def blocks() -> None:
        threads.append(threading.get_ident())
        assert done.wait(10)
        raise OSError("no such host")

    def waits() -> None:
        try:
            in_thread(blocks)
        except OSError as exc:
            caught.append(str(exc))

    def goes_on() -> None:
        sleep(0.01)
        beside.append(True)
        done.set()

    run(loop, waits, goes_on)
    assert (caught, beside) == (["no such host"], [True])
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("in_task", [True, False])
def test_a_result_of_a_thread_is_waited_for_only_so_long(loop: Loop, in_task: bool):
    released, seen = threading.Event(), []

    def fails() -> None:
        raise LookupError("no")

    def waits(call: object, timeout_s: float) -> None:
        try:
            seen.append(result_of(threads.submit(call), timeout_s))
        except Exception as exc:
            seen.append(type(exc))

    with concurrent.futures.ThreadPoolExecutor() as threads:
        for call, timeout_s in ((lambda: 42, 20), (fails, 20), (lambda: released.wait(20), 0.05)):
            if in_task:
                run(loop, functools.partial(waits, call, timeout_s))
            else:
                waits(call, timeout_s)
        released.set()
    assert seen == [42, LookupError, TimeoutError]


def test_a_result_that_comes_too_late_wakes_nothing(loop: Loop):
    released, order = threading.Event(), list[str]()

    def waits() -> None:
        with contextlib.suppress(TimeoutError):
            result_of(late, 0.01)
        order.append("timed out")
        released.set()
        began = time.monotonic()
        sleep(0.1)
        order.append("slept" if time.monotonic() - began >= 0.1 else "woken")

    with concurrent.futures.ThreadPoolExecutor() as threads:
        late = threads.submit(released.wait, 5)
        run(loop, waits)
    assert order == ["timed out", "slept"]


def test_a_result_that_is_there_already_is_taken_at_once(loop: Loop):
    there: concurrent.futures.Future[int] = concurrent.futures.Future()
    there.set_result(42)
    seen: list[int] = []
    run(loop, lambda: seen.append(result_of(there, 5)))
    assert seen == [42]


def test_the_helper_thread_sees_the_tasks_context(loop: Loop):
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    seen = []

    def task() -> None:
        name.set("mine")
        seen.append(in_thread(name.get))

    run(loop, task)
    assert seen == ["mine"]


def test_the_contexts_of_two_tasks_are_apart(loop: Loop):
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")
    seen = []

    def task(mine: str) -> None:
        name.set(mine)
        sleep(0.01)
        seen.append(name.get())

    run(loop, lambda: task("a"), lambda: task("b"))
    assert sorted(seen) == ["a", "b"]
    assert name.get() == ""


@pytest.mark.parametrize("inside", [True, False])
def test_a_stream_reads_what_arrives_and_the_end(loop: Loop, pair, inside: bool):
    one, other = pair
    got = []

    def read() -> None:
        stream = Stream(one)
        got.append(stream.receive(after(10)))
        other.close()
        got.append(stream.receive(after(10)))
        stream.close()

    other.sendall(b"an answer")
    run(loop, read) if inside else read()
    assert got == [b"an answer", b""]


@pytest.mark.parametrize("inside", [True, False])
def test_a_stream_that_nothing_arrives_at_times_out(loop: Loop, pair, inside: bool):
    caught = []

    def read() -> None:
        try:
            Stream(pair[0]).receive(after(0.02))
        except TimeoutError as exc:
            caught.append(exc)

    run(loop, read) if inside else read()
    assert len(caught) == 1


def test_a_trickle_does_not_extend_a_deadline(loop: Loop, pair):
    one, other = pair
    caught = []

    def read() -> None:
        stream, deadline = Stream(one), after(0.1)
        try:
            while stream.receive(deadline):
                pass
        except TimeoutError as exc:
            caught.append(exc)

    def trickle() -> None:
        while not caught:
            other.send(b".")
            sleep(0.001)

    run(loop, read, trickle)
    assert len(caught) == 1


def test_what_arrived_while_the_loop_stood_still_is_in_time(loop: Loop, pair):
    one, other = pair
    got = []
    loop.spawn(lambda: got.append(Stream(one).receive(after(0.01))))
    other.send(b"in time")
    time.sleep(0.05)
    loop.run_until(lambda: not loop.tasks)
    assert got == [b"in time"]


def test_more_than_the_buffers_hold_is_written_while_another_task_reads(loop: Loop, pair):
    one, other = pair
    read = []

    def write() -> None:
        Stream(one).send_all(b"x" * 3_000_000, after(10))

    def receive() -> None:
        stream = Stream(other)
        while sum(read) < 3_000_000:
            read.append(len(stream.receive(after(10))))

    run(loop, write, receive)
    assert sum(read) == 3_000_000


def test_a_writer_whose_peer_answers_early_waits_without_turning(loop: Loop, pair):
    """The peer has written and does not read: being readable must not wake the writer again and again."""
    one, other = pair
    other.send(b"too large")
    turns = []

    def write() -> None:
        with pytest.raises(TimeoutError):
            Stream(one).send_all(b"x" * 3_000_000, after(0.2))

    loop.spawn(write)
    loop.run_until(lambda: turns.append(1) or not loop.tasks)
    assert len(turns) < 20


def test_a_connection_that_ends_while_it_is_idle_is_not_quiet_and_costs_no_turns(loop: Loop, pair):
    one, other = pair
    stream = Stream(one)

    def exchange() -> None:
        stream.receive(after(10))

    other.send(b"answer")
    run(loop, exchange)
    assert stream.is_quiet()
    other.close()
    turns = []
    loop.spawn(lambda: sleep(0.1))
    loop.run_until(lambda: turns.append(1) or not loop.tasks)
    assert not stream.is_quiet()
    assert len(turns) < 10


def test_a_lock_that_another_task_holds_is_waited_for(loop: Loop):
    lock, order = threading.Lock(), []

    def task(name: str) -> None:
        with held(lock):
            order.append(f"{name} in")
            sleep(0.02)
            order.append(f"{name} out")

    run(loop, lambda: task("a"), lambda: task("b"))
    assert order == ["a in", "a out", "b in", "b out"]
    assert not lock.locked()


def test_the_wait_for_a_lock_of_another_task_ends(loop: Loop):
    lock, acquired = threading.Lock(), []

    def task() -> None:
        with held(lock):
            while not acquired:
                sleep(0.01)

    run(loop, task, lambda: acquired.append(acquire(lock, 0.01)), lambda: acquired.append(acquire(lock, 20.0)))
    assert acquired == [False, True]
    assert not acquire(lock, 0.0)


def test_flushes_happen_once_at_the_end_of_a_turn(loop: Loop):
    order = []

    def task(name: str) -> None:
        order.append(name)
        if len(order) == 1:
            loop.at_turn(lambda: order.append("flush"))
        sleep(0.01)

    run(loop, lambda: task("a"), lambda: task("b"))
    assert order == ["a", "b", "flush"]


def test_a_call_beside_the_loop_returns_raises_and_lets_tasks_go_on(loop: Loop):
    ended = threading.Event()

    def goes_on() -> None:
        sleep(0.01)
        ended.set()

    loop.spawn(goes_on)
    assert loop.run_beside(lambda: ended.wait(20) and "connected") == "connected"

    def fails() -> None:
        raise ConnectionError("away")

    with pytest.raises(ConnectionError, match="away"):
        loop.run_beside(fails)


def test_timers_that_were_cancelled_are_forgotten(loop: Loop):
    for _ in range(100):
        loop.call_at(after(60), lambda: None).cancel()
    loop.call_at(after(0.001), lambda: None)
    loop.run_until(lambda: not loop._timers)
    assert loop._timers == []


def test_cancelled_deadlines_that_are_far_ahead_do_not_pile_up(loop: Loop):
    """
    Each answer that comes in time leaves the deadline of its wait behind, at most 75 s ahead: thousands, at 50/s.
    """
    pending = [loop.call_at(after(60), lambda: None) for _ in range(200)]
    for _ in range(10_000):
        loop.call_at(after(75), lambda: None).cancel()
    assert len(loop._timers) < 1_000
    assert {id(timer) for timer in pending} <= {id(timer) for *_, timer in loop._timers}
    fired = []
    loop.call_at(after(0.001), lambda: fired.append("in time"))
    loop.run_until(lambda: bool(fired))


class Hub:
    """Drives a loop as Kombu's hub does."""

    def __init__(self) -> None:
        self.on_tick = set()
        self.timers: list[tuple[float, object, tuple]] = []
        self.reader = None
        self.most = 0

    def add_reader(self, fd, callback, *args) -> None:
        self.reader = fd, callback, args

    def call_later(self, delay, callback, *args) -> SimpleNamespace:
        timer = time.monotonic() + delay, callback, args
        self.timers.append(timer)
        self.most = max(self.most, len(self.timers))
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def run_until(self, done) -> None:
        poll = loop_module.select.poll()
        poll.register(self.reader[0], loop_module.select.POLLIN)
        while not done():
            due = [timer for timer in self.timers if timer[0] <= time.monotonic()]
            self.timers = [timer for timer in self.timers if timer not in due]
            for _, callback, args in due:
                callback(*args)
            for tick in list(self.on_tick):
                tick()
            next_at = min((at for at, *_ in self.timers), default=time.monotonic() + 1)
            if poll.poll(max(0, next_at - time.monotonic()) * 1000):
                self.reader[1](*self.reader[2])


def test_a_hub_drives_the_loop_and_its_timers(loop: Loop, pair):
    one, other = pair
    hub, got = Hub(), []
    loop.attach(hub)

    def task() -> None:
        sleep(0.01)
        got.append("slept")
        got.append(in_thread(lambda: "thread"))
        got.append(Stream(one).receive(after(5)))

    loop.spawn(task)
    other.send(b"read")
    hub.run_until(lambda: not loop.tasks)
    assert got == ["slept", "thread", b"read"]


def test_a_new_hub_takes_over_what_the_old_one_was_to_do(loop: Loop):
    """A reconnect resets Kombu's hub, and cancels the timers set while it connected."""
    loop.attach(Hub())
    ended = []
    loop.spawn(lambda: ended.append(sleep(0.05)))
    hub = Hub()
    loop.attach(hub)
    hub.run_until(lambda: not loop.tasks)
    assert ended == [None]


def test_a_hub_has_one_timer_of_ours_at_a_time(loop: Loop):
    """Kombu's hub sleeps for a second after a turn in which it fired ten, and each one that fires would set another."""
    hub = Hub()
    loop.attach(hub)
    loop.call_at(after(0.3), lambda: None)

    def task() -> None:
        for _ in range(50):
            sleep(0.001)

    loop.spawn(task)
    hub.run_until(lambda: not loop.tasks)
    assert hub.most == 1
