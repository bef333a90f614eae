from __future__ import annotations

import itertools

import pytest

from ifinu.errors import GatewayError, Misconfigured, NotSent, Reason, SendError, Throttled
from ifinu.gateway.instances import Hold, Instances, Judged, Trouble

CLOSED = NotSent("closed", reason=Reason.CONNECTION_CLOSED)
NO_DATABASE = NotSent("Prisma…", reason=Reason.GATEWAY_DATABASE)
NO_INSTANCE = Misconfigured("no such instance", reason=Reason.INSTANCE_NOT_FOUND)
DENIED = Misconfigured("x", reason=Reason.UNAUTHORIZED)
NUMBERS_TO_HOLD = 5


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now

    @property
    def ms(self) -> int:
        return int(self.now * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def instances(clock: Clock) -> Instances:
    return Instances(30.0, clock, jitter=lambda: 0.5)


class Message:
    """One message, which carries its trouble from try to try."""

    numbers = itertools.count()

    def __init__(self, instances: Instances, clock: Clock, name: str = "a") -> None:
        self.instances, self.clock, self.name = instances, clock, name
        self.number = f"number {next(self.numbers)}"
        self.trouble: Trouble | None = None

    def fail(self, exc: SendError = CLOSED, *, is_open: bool = True) -> Judged:
        judged = self.instances.failed(
            self.name, self.number, exc, self.trouble, at_ms=self.clock.ms, is_open=lambda: is_open
        )
        self.trouble = judged.trouble
        self.clock.now += 0.01
        return judged

    def send(self) -> bool:
        self.clock.now += 0.01
        return self.instances.sent(self.name, self.clock.ms)


def fail(instances: Instances, clock: Clock, times: int, exc: SendError = CLOSED) -> list[bool]:
    """Fail this many messages to distinct numbers; returns for each whether it counts as a try."""
    return [Message(instances, clock).fail(exc).counts for _ in range(times)]


def wait_s(instances: Instances, name: str = "a") -> float:
    hold = instances.hold(name)
    return 0.0 if hold is None else hold.wait_s


# -- is it the instance or the message?


def test_an_instance_that_the_gateway_says_is_offline_is_held_at_once_and_burns_no_try(
    instances: Instances, clock: Clock
):
    message = Message(instances, clock)
    for _ in range(20):
        assert instances.hold("a") is None
        assert not message.fail(is_open=False).counts
        assert instances.hold("a")
        clock.now += 100


@pytest.mark.parametrize("exc", [CLOSED, NotSent("x", reason=Reason.GATEWAY_ERROR)])
def test_one_that_says_it_is_online_goes_until_five_numbers_have_failed_in_a_row(
    instances: Instances, clock: Clock, exc: SendError
):
    assert fail(instances, clock, 4, exc) == [True] * 4
    assert instances.hold("a") is None
    assert fail(instances, clock, 1, exc) == [False]
    assert instances.hold("a")


def test_a_send_in_between_starts_the_count_again(instances: Instances, clock: Clock):
    fail(instances, clock, 4)
    assert not Message(instances, clock).send()
    assert fail(instances, clock, 4) == [True] * 4


def test_the_others_go_on(instances: Instances, clock: Clock):
    fail(instances, clock, 9)
    assert instances.hold("b") is None


def test_one_number_alone_holds_nothing_however_often_it_fails(instances: Instances, clock: Clock):
    message = Message(instances, clock)
    assert [message.fail().counts for _ in range(50)] == [True] * 50
    assert instances.hold("a") is None


@pytest.mark.parametrize("exc", [CLOSED, DENIED, NO_DATABASE], ids=["closed", "denied", "no database"])
def test_a_message_that_fails_again_after_others_were_sent_is_itself_at_fault(
    instances: Instances, clock: Clock, exc: SendError
):
    bad = [Message(instances, clock) for _ in range(2 * NUMBERS_TO_HOLD)]
    for message in bad:
        message.fail(exc)
    assert not bad[-1].fail(exc).counts  # not enough evidence yet
    Message(instances, clock).send()
    for _ in range(4):
        assert all(message.fail(exc).counts for message in bad)
    assert instances.hold("a") is None


def test_a_failing_message_uses_no_more_tries_once_the_others_fail_too(instances: Instances, clock: Clock):
    bad = Message(instances, clock)
    bad.fail()
    Message(instances, clock).send()
    assert bad.fail().trouble.own
    Message(instances, clock).fail(is_open=False)
    assert not bad.fail().counts


def test_a_gateway_without_its_database_uses_no_try_of_any_message(instances: Instances, clock: Clock):
    message = Message(instances, clock)
    assert [message.fail(NO_DATABASE).counts for _ in range(50)] == [False] * 50
    assert instances.hold("a") is None  # the breaker holds everything back


def test_of_several_gateway_processes_one_without_its_database_holds_its_own_instances(clock: Clock):
    instances = Instances(30.0, clock, sharded=True)
    assert not Message(instances, clock).fail(NO_DATABASE).counts
    assert instances.hold("a")
    assert instances.hold("b") is None


def test_an_instance_that_turns_out_to_be_offline_gives_the_tries_back_that_it_cost(instances: Instances, clock: Clock):
    message = Message(instances, clock)
    trouble = message.fail().trouble
    assert trouble.counted == 1
    assert not instances.may_be_blameless("a", trouble)
    fail(instances, clock, NUMBERS_TO_HOLD)
    assert instances.may_be_blameless("a", trouble)
    Message(instances, clock).send()
    assert not instances.may_be_blameless("a", trouble)


# -- how long it waits


def test_one_message_probes_and_the_wait_doubles_up_to_a_minute(instances: Instances, clock: Clock):
    fail(instances, clock, NUMBERS_TO_HOLD)
    waits = []
    for _ in range(6):
        clock.now += wait_s(instances)
        assert instances.hold("a") is None  # the probe
        assert instances.hold("a")  # and no other
        began = clock.now
        Message(instances, clock).fail()
        waits.append(next(instances._states[name].until for name in "a") - began)
    assert waits == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0, 60.0])


def test_the_message_that_failed_as_the_probe_comes_back_after_the_others(instances: Instances, clock: Clock):
    fail(instances, clock, NUMBERS_TO_HOLD)
    probe, others = Message(instances, clock), []
    for _ in range(6):
        clock.now += 100
        assert instances.hold("a") is None
        mine = probe.fail().wait_s
        others = [wait_s(instances) for _ in range(5)]
        assert max(others) < mine


def test_failures_of_sends_under_way_do_not_lengthen_the_wait(instances: Instances, clock: Clock):
    fail(instances, clock, 2 * NUMBERS_TO_HOLD)
    assert wait_s(instances) < 6


def test_a_probe_that_was_sent_ends_it(instances: Instances, clock: Clock):
    fail(instances, clock, NUMBERS_TO_HOLD)
    clock.now += 5
    assert instances.hold("a") is None
    assert Message(instances, clock).send()
    assert instances.hold("a") is instances.hold("a") is None


def test_held_messages_come_back_spread_out(instances: Instances, clock: Clock):
    fail(instances, clock, NUMBERS_TO_HOLD)
    clock.now = 1_000.0
    waits = [wait_s(instances) for _ in range(100_000)]
    assert waits == sorted(waits)
    assert waits[199] - waits[0] == pytest.approx(199 / 20)
    assert waits[-1] == pytest.approx(605, abs=0.1)


def test_many_instances_that_are_held_leave_the_pace_to_the_others(instances: Instances, clock: Clock):
    names = [str(number) for number in range(1_500)]
    probes = 0
    for _ in range(200):  # seconds
        for name in names:
            if instances.hold(name) is None:
                probes += 1
                instances.failed(name, "n", CLOSED, None, at_ms=clock.ms, is_open=lambda: False)
        clock.now += 1
    assert probes < len(names) + 200 * 5 * 2  # each once, and then about five a second


def test_a_wrong_key_or_instance_holds_at_once(instances: Instances, clock: Clock):
    assert not Message(instances, clock).fail(DENIED).counts
    assert 29.9 < wait_s(instances) < 31


def test_a_throttled_number_waits_for_its_retry_after_and_then_sends(instances: Instances, clock: Clock):
    judged = Message(instances, clock).fail(Throttled("x", retry_after_s=7.0))
    assert not judged.counts
    assert judged.wait_s > 7
    assert 6.9 < wait_s(instances) < judged.wait_s
    clock.now += 7
    assert instances.hold("a") is instances.hold("a") is None


def test_a_limit_for_one_person_holds_back_no_one_else(instances: Instances, clock: Clock):
    to_her = Message(instances, clock)
    waits = [to_her.fail(Throttled("x", retry_after_s=6.0, reason=Reason.PAIR_LIMIT)) for _ in range(3)]
    assert [(judged.wait_s, judged.counts) for judged in waits] == [(7.0, False), (8.0, False), (10.0, False)]
    assert instances.hold("a") is None


# -- instances that the gateway does not have


class Listed:
    """A gateway's list of instances that counts how often it was fetched."""

    def __init__(self, *names: str) -> None:
        self.names: set[str] | None = set(names)
        self.asked = 0

    def __call__(self) -> set[str]:
        self.asked += 1
        if self.names is None:
            raise GatewayError("away")
        return self.names


def test_of_many_missing_instances_a_few_are_tried_and_the_gateways_list_spares_the_others(clock: Clock):
    listed = Listed("good", "b")
    instances = Instances(30.0, clock, names=listed)
    for name in "012":
        assert instances.hold(name) is None
        assert listed.asked == 0  # one or two may be misspelt
        Message(instances, clock, name).fail(NO_INSTANCE)
    for _ in range(3):
        assert [instances.hold(str(number)) for number in range(3, 1_500)] == [Hold(30.0, missing=True)] * 1_497
        assert instances.hold("good") is instances.hold("b") is None
        clock.now += 10
    assert listed.asked == 1
    clock.now += 1
    listed.names = {"good", "0"}
    assert instances.hold("0") is None
    assert listed.asked == 2


def test_a_list_that_cannot_be_had_holds_nothing(clock: Clock):
    listed = Listed()
    listed.names = None
    instances = Instances(30.0, clock, names=listed)
    for name in "0234":
        Message(instances, clock, name).fail(NO_INSTANCE)
    assert instances.hold("1") is instances.hold("good") is None
    assert listed.asked == 1
    hold = instances.hold("0")
    assert hold is not None
    assert hold.missing


def test_a_message_for_a_missing_instance_waits_longer_each_time(instances: Instances):
    trouble = Trouble(Reason.INSTANCE_NOT_FOUND, 0, 0, 1)
    waits = [instances.patience_s(trouble, age_s * 1000) for age_s in (0, 60, 200, 600, 1_200, 50_000)]
    assert waits == [30.0, 30.0, 100.0, 300.0, 600.0, 600.0]


# -- the header that a message carries


@pytest.mark.parametrize(
    "value",
    [
        None, "x", {}, [], [1], ["a", 1, 1, 1, 1, 1], ["a", 1.5, 1, 1, 1, True], ["a", -1, 1, 1, 1, True],
        ["a", True, 1, 1, 1, True], ["a" * 200, 1, 1, 1, 1, True], ["a", 1, 1, 10**400, 1, True],
    ],
)  # fmt: skip
def test_a_foreign_value_in_the_header_is_ignored(value: object):
    assert Trouble.read(value) is None


def test_a_message_carries_its_history_of_failures():
    trouble = Trouble("connection_closed", 1, 2, 3, 4, own=True)
    assert Trouble.read(list(trouble)) == trouble
