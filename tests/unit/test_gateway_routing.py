"""Finding the process that holds an instance: the look-up of the name, the questions and the answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ifinu import loop
from ifinu.errors import ConfigurationError, GatewayError, Misconfigured, NotSent, Reason, SendError
from ifinu.gateway import ConnectionState
from ifinu.gateway.addresses import Addresses, resolve
from ifinu.gateway.breaker import is_outage
from ifinu.gateway.instances import Hold, Instances
from ifinu.gateway.routing import Answer, Routing, judged
from ifinu.gateway.shard import Shard, ask_all
from ifinu.gateway.shards import Shards

OPEN, CONNECTING, CLOSE, ABSENT = (
    ConnectionState.OPEN,
    ConnectionState.CONNECTING,
    ConnectionState.CLOSE,
    ConnectionState.ABSENT,
)
AWAY = GatewayError("10.0.0.9: refused")
BROKEN = GatewayError("HTTP 500", status=500, answer="Prisma")
DENIED = GatewayError("HTTP 401", status=401, answer="Unauthorized")
MISSING = GatewayError("HTTP 404", status=404, answer='The "a" instance does not exist')
NO_ROUTE = GatewayError("HTTP 404", status=404, answer="Cannot GET /instance/connectionState/a")
MOVED = GatewayError("HTTP 301", status=301)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Names:
    """A name server with configurable answers that counts the look-ups."""

    def __init__(self, *found: str) -> None:
        self.found: Iterable[str] | OSError = found
        self.asked = 0

    def __call__(self, host: str, port: int) -> Iterable[str]:
        self.asked += 1
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- the addresses of the name


def test_a_name_is_looked_up_every_few_seconds_and_not_more(clock: Clock):
    names = Names("10.0.0.2", "10.0.0.1")
    addresses = Addresses("gateway", 8080, names, clock)
    assert addresses() == addresses() == addresses(fresh=True) == ("10.0.0.1", "10.0.0.2")
    assert names.asked == 1
    names.found = ("10.0.0.3",)
    clock.now += 2.9
    assert addresses() == ("10.0.0.1", "10.0.0.2")
    clock.now += 0.1
    assert addresses() == ("10.0.0.3",)
    assert names.asked == 2


def test_an_address_that_has_just_failed_is_looked_up_at_once(clock: Clock):
    names = Names("10.0.0.1")
    addresses = Addresses("gateway", 8080, names, clock)
    addresses()
    names.found = ("10.0.0.2",)
    clock.now += 0.5
    assert addresses() == ("10.0.0.1",)
    assert addresses(fresh=True) == ("10.0.0.2",)


def test_without_a_name_server_the_known_addresses_are_kept_for_a_minute(clock: Clock):
    names = Names("10.0.0.1")
    addresses = Addresses("gateway", 8080, names, clock)
    addresses()
    names.found = socket.gaierror(socket.EAI_AGAIN, "away")
    clock.now += 59.0
    assert addresses() == ("10.0.0.1",)
    clock.now += 3.0
    assert addresses() == ()
    assert names.asked == 3


def test_a_name_without_addresses_has_none_at_once(clock: Clock):
    names = Names("10.0.0.1")
    addresses = Addresses("gateway", 8080, names, clock)
    addresses()
    names.found = ()
    clock.now += 3.0
    assert addresses() == ()


def test_while_one_thread_looks_up_the_others_use_the_known_addresses(clock: Clock):
    slow, looking = threading.Event(), threading.Event()
    answers = [("10.0.0.1",), ("10.0.0.2",)]

    def look_up(host: str, port: int) -> Iterable[str]:
        if len(answers) == 1:
            looking.set()
            assert slow.wait(20)
        return answers.pop(0)

    addresses = Addresses("gateway", 8080, look_up, clock)
    addresses()
    clock.now += 3.0
    with ThreadPoolExecutor(1) as pool:
        renewing = pool.submit(addresses)
        assert looking.wait(20)
        assert addresses() == ("10.0.0.1",)
        slow.set()
        assert renewing.result(20) == ("10.0.0.2",)


@pytest.mark.parametrize("error", [socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)])
def test_no_such_name_is_no_address(monkeypatch: pytest.MonkeyPatch, error: int):
    def none(*_: object, **__: object) -> None:
        raise socket.gaierror(error, "no address")

    monkeypatch.setattr(socket, "getaddrinfo", none)
    assert set(resolve("gateway", 8080)) == set()


def test_a_name_server_without_an_answer_is_no_answer(monkeypatch: pytest.MonkeyPatch):
    def away(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", away)
    with pytest.raises(OSError, match="try again"):
        resolve("gateway", 8080)


def test_the_addresses_of_both_families_are_found(monkeypatch: pytest.MonkeyPatch):
    def both(host: str, port: int, type: int) -> list[tuple]:  # noqa: A002 - as getaddrinfo has it
        assert (host, port, type) == ("gateway", 8080, socket.SOCK_STREAM)
        v4 = (socket.AF_INET, type, 6, "", ("10.0.0.1", port))
        return [v4, v4, (socket.AF_INET6, type, 6, "", ("fd00::1", port, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert set(resolve("gateway", 8080)) == {"10.0.0.1", "fd00::1"}


# -- from answers to holder


@pytest.mark.parametrize(
    ("found", "held"),
    [
        ({"1": OPEN}, ("1", OPEN)),
        ({"1": ABSENT, "2": CLOSE, "3": AWAY}, ("2", CLOSE)),
        ({"1": CLOSE, "2": CONNECTING}, ("2", CONNECTING)),
        ({"1": CONNECTING, "2": OPEN}, ("2", OPEN)),
        ({"1": DENIED, "2": OPEN}, ("2", OPEN)),
        ({"1": MISSING, "2": CLOSE}, ("2", CLOSE)),
    ],
)
def test_the_process_that_reports_the_best_state_holds_the_instance(
    found: dict[str, Answer], held: tuple[str, ConnectionState]
):
    assert judged("a", found, "gateway:8080") == held


@pytest.mark.parametrize(
    ("found", "kind", "reason", "said"),
    [
        ({}, NotSent, Reason.UNREACHABLE, "the name has no address"),
        (
            {"1": AWAY, "2": AWAY},
            NotSent,
            Reason.UNREACHABLE,
            "none of 2 gateway processes answered: 10.0.0.9: refused",
        ),
        ({"1": AWAY, "2": BROKEN}, NotSent, Reason.UNAVAILABLE, "none of 2 gateway processes answered: HTTP 500"),
        ({"1": ABSENT}, NotSent, Reason.WRONG_SHARD, "none of 1 gateway processes holds it"),
        ({"1": ABSENT, "2": AWAY}, NotSent, Reason.WRONG_SHARD, "holds it, and 1 more did not answer"),
        ({"1": ABSENT, "2": BROKEN}, NotSent, Reason.WRONG_SHARD, "did not answer"),
        ({"1": ABSENT, "2": MISSING}, NotSent, Reason.WRONG_SHARD, "holds it"),
        ({"1": MISSING, "2": MISSING}, Misconfigured, Reason.INSTANCE_NOT_FOUND, "does not exist"),
        ({"1": MISSING, "2": AWAY}, Misconfigured, Reason.INSTANCE_NOT_FOUND, "does not exist"),
        ({"1": DENIED, "2": DENIED}, Misconfigured, Reason.UNAUTHORIZED, "IFINU_EVOLUTION_API_KEY"),
        ({"1": DENIED, "2": ABSENT}, Misconfigured, Reason.UNAUTHORIZED, "Unauthorized"),
        ({"1": NO_ROUTE, "2": AWAY}, Misconfigured, Reason.ROUTE_NOT_FOUND, "Cannot GET"),
        ({"1": MOVED}, Misconfigured, Reason.REDIRECTED, "301"),
    ],
)
def test_an_instance_that_no_process_holds_has_no_address(
    found: dict[str, Answer], kind: type[SendError], reason: Reason, said: str
):
    with pytest.raises(SendError) as caught:
        judged("a", found, "gateway:8080")
    exc = caught.value
    assert (type(exc), exc.reason, exc.instance) == (kind, reason, "a")
    assert said in str(exc)
    assert is_outage(exc) is (reason in (Reason.UNREACHABLE, Reason.UNAVAILABLE))
    assert (exc.status is None) is is_outage(exc)


# -- asking the processes


class Process(Shard):
    """A gateway process that reports configured states of instances."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.away = False
        self.states: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closed = False
        self.hold: Callable[[], object] = lambda: None

    def ask(self, question: Callable[..., ConnectionState]) -> ConnectionState:  # type: ignore[override]  # one question is asked here
        return question(self)

    def connection_state(self, instance: str) -> ConnectionState:
        self.asked.append(instance)
        self.hold()
        answer = self.states.get(instance, ABSENT)
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


class Remembered(dict[str, str]):
    """The holders that workers share through Redis, as a dict."""

    def recall(self, instance: str) -> str | None:
        return self.get(instance)

    def remember(self, instance: str, address: str) -> None:
        self[instance] = address

    def forget(self, instance: str, address: str) -> None:
        if self.get(instance) == address:
            del self[instance]


class Fleet:
    """Three processes behind one name."""

    def __init__(self, clock: Clock) -> None:
        self.names = Names("1", "2", "3")
        self.memory = Remembered()
        self.processes: dict[str, Process] = {}
        self.holders = self.another(clock)

    def another(self, clock: Clock) -> Routing:
        return Routing(Addresses("gateway", 80, self.names, clock), self.process, name="gateway:80", memory=self.memory)

    def process(self, address: str) -> Process:
        return self.processes.setdefault(address, Process(address))

    @property
    def asked(self) -> int:
        return sum(len(process.asked) for process in self.processes.values())


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(clock)
    fleet.process("2").states["a"] = OPEN
    return fleet


def test_the_holder_is_looked_up_once_and_shared_with_the_other_workers(fleet: Fleet, clock: Clock):
    assert {fleet.holders.of("a").address for _ in range(5)} == {"2"}
    asked = fleet.asked
    assert 1 <= asked <= 3
    assert fleet.memory == {"a": "2"}
    assert fleet.another(clock).of("a").address == "2"
    assert fleet.asked == asked


def test_a_shared_address_is_used_only_while_the_name_has_it(fleet: Fleet):
    fleet.memory["a"] = "9"
    assert fleet.holders.of("a").address == "2"
    assert fleet.memory == {"a": "2"}


def test_an_address_that_the_name_has_lost_is_not_used(fleet: Fleet, clock: Clock):
    fleet.holders.of("a")
    old = fleet.processes.pop("2")
    fleet.names.found = ("1", "3", "4")
    fleet.process("4").states["a"] = CLOSE
    clock.now += 3.0
    assert fleet.holders.of("a").address == "4"
    assert old.closed


def test_one_that_did_not_answer_is_asked_before_it_is_used_again(fleet: Fleet):
    fleet.holders.of("a").away = True
    fleet.process("2").states["a"] = AWAY
    with pytest.raises(NotSent) as caught:
        fleet.holders.of("a")
    assert caught.value.reason is Reason.WRONG_SHARD


def test_a_wrong_holder_is_forgotten_and_every_process_is_asked_again(fleet: Fleet):
    wrong = fleet.holders.of("a")
    fleet.process("2").states.clear()
    fleet.process("3").states["a"] = OPEN
    assert fleet.holders.anew("a", wrong).address == "3"
    assert fleet.memory == {"a": "3"}
    asked = fleet.asked
    assert fleet.holders.anew("a", wrong).address == "3"  # a second thread reports the same failure later
    assert fleet.asked == asked


def test_an_instance_without_a_holder_is_remembered_nowhere(fleet: Fleet):
    wrong = fleet.holders.of("a")
    fleet.process("2").states.clear()
    for _ in range(2):
        with pytest.raises(NotSent):
            fleet.holders.anew("a", wrong)
    assert fleet.memory == {}
    fleet.process("1").states["a"] = CLOSE
    assert fleet.holders.of("a").address == "1"


def test_many_threads_ask_once(fleet: Fleet):
    going, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert going.wait(20)

    for address in "123":
        fleet.process(address).hold = hold
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(fleet.holders.of, "a") for _ in range(8)]
        assert started.wait(20)
        going.set()
        assert {one.result(20).address for one in found} == {"2"}
    assert all(process.asked in ([], ["a"]) for process in fleet.processes.values())


def test_threads_share_a_failed_look_up_and_each_gets_a_separate_exception(fleet: Fleet):
    fleet.process("2").states.clear()
    going, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert going.wait(20)

    fleet.process("1").hold = hold

    def failure(_: int) -> BaseException | None:
        try:
            fleet.holders.of("a")
        except NotSent as exc:
            return exc
        return None

    with ThreadPoolExecutor(4) as pool:
        failures = [pool.submit(failure, number) for number in range(4)]
        assert started.wait(20)
        going.set()
        raised = [one.result(20) for one in failures]
    assert all(isinstance(exc, NotSent) for exc in raised)
    assert len({id(exc) for exc in raised}) == 4


def test_a_process_that_hangs_does_not_delay_an_open_instance(fleet: Fleet):
    released = threading.Event()
    fleet.process("3").hold = lambda: released.wait(20)
    assert fleet.holders.of("a").address == "2"
    assert not released.is_set()
    released.set()


def test_a_caller_can_have_every_answer_and_nothing_is_remembered(fleet: Fleet):
    fleet.process("3").states["a"] = AWAY
    assert fleet.holders.states("a") == {"1": ABSENT, "2": OPEN, "3": AWAY}
    assert fleet.memory == {}


def test_a_process_that_answers_too_late_counts_as_silent(fleet: Fleet):
    released = threading.Event()
    fleet.process("3").hold = lambda: released.wait(20)
    said = ask_all(fleet.holders.shards(), lambda shard: shard.ask(lambda one: one.connection_state("a")), wait_s=2)
    released.set()
    assert (said["1"], said["2"]) == (ABSENT, OPEN)
    assert isinstance(said["3"], GatewayError)
    assert "no answer in 2 s" in str(said["3"])


def test_an_unreachable_process_is_asked_by_one_thread_at_a_time():
    shard = Shard("1", None, None)  # type: ignore[arg-type]  # it is asked nothing
    released, asking = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        asking.set()
        assert released.wait(20)
        raise AWAY

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shard.ask, hang)
        assert asking.wait(20)
        assert shard.ask(lambda _: "not away yet: no thread waits") == "not away yet: no thread waits"
        released.set()
        with pytest.raises(GatewayError):
            first.result(20)
        assert shard.away
        released.clear()
        asking.clear()
        second = pool.submit(shard.ask, hang)
        assert asking.wait(20)
        with pytest.raises(GatewayError, match="another thread asks again"):
            shard.ask(lambda _: pytest.fail("it is being asked"))
        released.set()
        with pytest.raises(GatewayError):
            second.result(20)
    assert shard.ask(lambda _: "there") == "there"
    assert not shard.away


# -- tasks of one loop, which share its thread


def run(*tasks: Callable[[], object]) -> int:
    """Run tasks to their ends, and return the identity of their thread."""
    with contextlib.closing(loop.Loop()) as running:
        for task in tasks:
            running.spawn(task)
        running.run_until(lambda: not running.tasks)
        return running.thread


def test_tasks_of_one_loop_ask_once_while_other_tasks_run(fleet: Fleet):
    going = threading.Event()
    found: list[str | None] = []
    for address in "123":
        fleet.process(address).hold = lambda: going.wait(20)

    def another_task() -> None:
        loop.sleep(0.1)
        found.append(None)
        going.set()

    run(*[lambda: found.append(fleet.holders.of("a").address)] * 8, another_task)
    assert found == [None] + ["2"] * 8
    assert all(process.asked == ["a"] for process in fleet.processes.values())


def test_tasks_of_one_loop_share_a_failed_look_up_and_each_gets_a_separate_exception(fleet: Fleet):
    going = threading.Event()
    fleet.process("2").states.clear()
    fleet.process("1").hold = lambda: going.wait(20)
    failures: list[NotSent] = []

    def task() -> None:
        try:
            fleet.holders.of("a")
        except NotSent as exc:
            failures.append(exc)

    def another_task() -> None:
        loop.sleep(0.1)
        going.set()

    run(*[task] * 4, another_task)
    assert [exc.reason for exc in failures] == [Reason.WRONG_SHARD] * 4
    assert len({id(exc) for exc in failures}) == 4
    assert fleet.process("2").asked == ["a"]


def test_nothing_that_may_block_runs_in_the_thread_of_the_loop(fleet: Fleet, clock: Clock):
    threads: dict[str, set[int]] = {}

    def noting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            threads.setdefault(name, set()).add(threading.get_ident())
            return real(*args)

        return call

    for owner, name in [(fleet.memory, name) for name in ("recall", "remember", "forget")] + [
        (fleet.process("2"), "connection_state")
    ]:
        setattr(owner, name, noting(name, getattr(owner, name)))
    addresses = Addresses("gateway", 80, noting("look_up", Names("2")), clock)  # type: ignore[arg-type]
    connect = noting("connect", fleet.process)
    holders = Routing(addresses, connect, name="gateway:80", memory=fleet.memory)  # type: ignore[arg-type]
    thread = run(lambda: holders.anew("a", holders.of("a")))
    assert {*threads} == {"look_up", "connect", "recall", "remember", "forget", "connection_state"}
    assert all(thread not in found for found in threads.values())


def test_while_one_task_looks_up_the_others_use_the_known_addresses(clock: Clock):
    looked_up = threading.Event()
    answers = [("10.0.0.1",), ("10.0.0.2",)]

    def look_up(host: str, port: int) -> Iterable[str]:
        if len(answers) == 1:
            assert looked_up.wait(20)
        return answers.pop(0)

    addresses = Addresses("gateway", 8080, look_up, clock)
    addresses()
    clock.now += 3.0
    found: list[tuple[str, ...]] = []

    def another_task() -> None:
        found.append(addresses())
        looked_up.set()

    run(lambda: found.append(addresses()), another_task)
    assert found == [("10.0.0.1",), ("10.0.0.2",)]


def test_tasks_wait_for_the_first_addresses_while_others_run(clock: Clock):
    looked_up = threading.Event()
    asked: list[str] = []

    def look_up(host: str, port: int) -> Iterable[str]:
        asked.append(host)
        assert looked_up.wait(20)
        return ("10.0.0.1",)

    addresses = Addresses("gateway", 8080, look_up, clock)
    found: list[tuple[str, ...]] = []
    run(*[lambda: found.append(addresses())] * 3, looked_up.set)
    assert (found, asked) == ([("10.0.0.1",)] * 3, ["gateway"])


def test_while_one_task_reads_the_list_of_instances_the_others_go_on(clock: Clock):
    read = threading.Event()
    seen: list[object] = []

    def names() -> set[str]:
        assert read.wait(20)
        return {"good"}

    instances = Instances(30.0, clock, names=names)
    missing = Misconfigured("no such instance", reason=Reason.INSTANCE_NOT_FOUND)
    for name in "012":
        instances.failed(name, "n", missing, None, at_ms=1)

    def another_task() -> None:
        seen.append(instances.hold("4"))
        read.set()

    run(lambda: seen.append(instances.hold("3")), another_task)
    assert seen == [None, Hold(30.0, missing=True)]


# -- the effect on sends


def test_an_instance_that_no_process_holds_is_held_back_at_once_where_all_were_asked(clock: Clock):
    wrong = NotSent("none holds it", reason=Reason.WRONG_SHARD)
    closed = NotSent("closed", reason=Reason.CONNECTION_CLOSED)
    for sharded, exc, counts in ((True, wrong, False), (False, wrong, True), (True, closed, True)):
        instances = Instances(30.0, clock, sharded=sharded)
        assert instances.failed("a", "n", exc, None, at_ms=1).counts is counts
        assert (instances.hold("a") is None) is counts


@pytest.mark.parametrize(
    ("url", "key"), [("gateway:8080", "key"), ("http://gateway:8080?x=1", "key"), ("http://gateway:8080", "")]
)
def test_an_unusable_url_or_key_is_refused_at_once(url: str, key: str):
    with pytest.raises(ConfigurationError):
        Shards(url, key)


def test_making_one_looks_nothing_up():
    names = Names()
    gateway = Shards("http://gateway:8080", "s3cr3t-k3y", look_up=names)
    assert repr(gateway) == "Shards('http://gateway:8080')"
    gateway.close()
    assert names.asked == 0
