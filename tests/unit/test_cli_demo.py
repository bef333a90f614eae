import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from ifinu.broker import QUEUES, DeadLetter
from ifinu.broker.backlog import Backlog
from ifinu.cli.demo import charges, numbers, scenario, verdict
from ifinu.cli.demo.numbers import Played
from ifinu.cli.demo.verdict import Evidence, Pace
from ifinu.simulator import Send

TODAY = date(2026, 12, 1)
LOAD = 20
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def send(number, at=10.0):
    return Send(0.0, at, "ifinu", number, "text", "key", "ok")


def letter(reason, attempts, named=None):
    return DeadLetter(QUEUES[0], reason, "", attempts, NOW, NOW, named, None, b"", b"")


def as_it_must_be():
    return Evidence(
        sends=[
            *[send("5511987654321")] * LOAD,
            send("5511987651101"),
            send("5511987651102"),
            send("5511987651103", at=14.2),
            *[send(f"551198765120{i}") for i in (1, 2, 3)],
            send("5511987650002"),
            send("5511987650004"),
            send("5511987650020"),
            *[send("5511987650024")] * 2,
        ],
        posts={
            "ok": LOAD + 8,
            "lookup_closed": 6,
            "not_on_whatsapp": 1,
            "sent_then_reset": 1,
            "bad_gateway": 1,
            "answers_stop": 2,
        },
        letters=[
            letter("connection_closed", 4, "a"),
            letter("number_not_on_whatsapp", 1, "b"),
            *[letter("invalid", 0, "c")] * 3,
            letter("not_json", 0),
            letter("not_utf8", 0),
            letter("not_an_object", 0),
        ],
        backlogs=[Backlog(queue, 0, 0, None, 0, 8, None) for queue in QUEUES],
        paces=[Pace("worker-1", 500, 55, 50.4, 9.0)],
        later_from=10.0,
        ledger={"read": LOAD + 11, "dead": 5, "expired": 1},
    )


def failed(evidence):
    checks = verdict.judge(scenario.cases(LOAD, TODAY), evidence, rate_per_s=50, burst=5)
    return [check.what for check in checks if not check.holds]


def test_every_expectation_holds_for_a_correct_run():
    assert failed(as_it_must_be()) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            lambda e: {"sends": e.sends[1:]},
            {'load test, {"id":…,"tipo_notificacao":…}', "all 45 pushed", "the ledger"},
        ),
        (
            lambda e: {"sends": [*e.sends[1:], send("5511999990000")]},
            {
                'load test, {"id":…,"tipo_notificacao":…}',
                "all 45 pushed",
            },
        ),
        (
            lambda e: {"sends": [*e.sends, send("5511987651201")]},
            {"3 ids, each pushed 3 times", "all 45 pushed", "the ledger"},
        ),
        (
            lambda e: {"letters": e.letters[1:]},
            {"a number whose sends always fail (500)", "all 45 pushed", "the ledger"},
        ),
        (lambda e: {"ledger": {**e.ledger, "read": 1}}, {"the ledger"}),
        (lambda e: {"ledger": {**e.ledger, "delivered": 1}}, {"the ledger"}),
        (lambda e: {"letters": [*e.letters, letter("error", 0)]}, {"all 45 pushed"}),
        (lambda e: {"posts": {**e.posts, "lookup_closed": 5}}, {"tries that failed"}),
        (lambda e: {"posts": {**e.posts, "timeout": 1}}, {"tries that failed"}),
        (lambda e: {"later_from": 10.3}, {"the countdown"}),
        (lambda e: {"backlogs": [replace(e.backlogs[0], in_flight=1)]}, {"left in queue, in flight or delayed"}),
        (lambda e: {"paces": [Pace("w", 500, 56, 50.0, 9.0)]}, {"w, its busiest second"}),
        (lambda e: {"paces": [Pace("w", 0, 0, None, 0.0)]}, {"w, its busiest second"}),
        (lambda e: {"paces": [Pace("w", 400, 42, 41.0, 9.0)]}, {"w, pace under a backlog"}),
        (lambda e: {"paces": [Pace("w", 500, 55, 53.0, 9.0)]}, {"w, pace under a backlog"}),
        (lambda e: {"paces": [Pace("w", 20, 20, 70.0, 0.3)]}, set()),  # too short to judge
    ],
)
def test_each_defect_is_found_where_it_is(changes, found):
    evidence = as_it_must_be()
    assert set(failed(replace(evidence, **changes(evidence)))) == found


def test_the_cases_do_not_share_numbers_or_dead_letters():
    cases = scenario.cases(LOAD, TODAY)
    numbers = Counter(number for case in cases for number in case.sends)
    reasons = Counter(reason for case in cases for reason in case.dead)
    assert {*numbers.values(), *reasons.values()} == {1}


def test_the_load_test_pushes_what_the_readme_documents():
    load = scenario.cases(2, TODAY)[0]
    assert [json.loads(raw) for raw in load.messages] == [
        {"id": "test_1", "tipo_notificacao": "lembrete"},
        {"id": "test_2", "tipo_notificacao": "lembrete"},
    ]


def test_a_pace_keeps_its_mean_when_the_backlog_is_gone():
    busy = Pace.of("w", {"total": 100, "worst_window": 51, "mean_per_s": 50.0, "first_at": 1.0, "last_at": 3.0})
    later = busy.when_idle({"total": 103, "worst_window": 52, "mean_per_s": 9.0, "first_at": 1.0, "last_at": 12.0})
    assert later == Pace("w", 103, 52, 50.0, 2.0)


# -- the five numbers


def of_tenants():
    """As many sends as there are messages, in order, each by a number of its tenant."""
    made = []
    for digit, tenant in (("2", "A"), ("3", "B")):
        names = numbers.TENANTS[tenant]
        for n in range(numbers.COUNTS[tenant]):
            made.append(send(f"551198767{digit}{n:03d}", 10.0 + n / 10)._replace(instance=names[n % len(names)]))
    return made


def figures(**changes):
    whole = {"sends": 20, "least_gap_s": 0.21, "most_in_flight": 1, "breaches": {"too_fast": 0}}
    each = dict.fromkeys(numbers.NUMBERS, whole)
    each["a-2"] = {**whole, "breaches": {"too_fast": 1}}
    return {
        **each,
        **{name.replace("_", "-"): {**each[name.replace("_", "-")], **new} for name, new in changes.items()},
    }


def played(**changes):
    whole = Played(
        figures=figures(), sends=of_tenants(), tries=53, pushed_at=9.5, brake=0.5,
        was_held=frozenset({"a-2", "a-3"}), left=0, letters=0,
    )  # fmt: skip
    return replace(whole, **changes)


def wrong_in(scene):
    return {check.what for check in numbers.judge(scene) if not check.holds}


def test_the_scene_of_the_numbers_holds_for_a_correct_run():
    assert wrong_in(played()) == set()
    phones = [json.loads(raw)["telefone"] for tenant in numbers.TENANTS for raw in numbers.messages(tenant)]
    assert [f"55{phone}" for phone in phones] == [each.number for each in of_tenants()]


ALL, WAIT, OTHERS = "all 51 of A and B", "B's 6 messages behind A's 45", "sent by another tenant's number"
ALLOWED, OFFLINE = "a-2, faster than WhatsApp allows", "a-3, closed for 3 s"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (lambda s: {"sends": s[1:], "tries": 52}, {ALL}),
        (lambda s: {"sends": [*s, s[0]], "tries": 54}, {ALL}),
        (lambda s: {"sends": s[:-1], "tries": 52}, {ALL, WAIT}),
        (lambda s: {"sends": [*s[:-1], s[-1]._replace(at=14.6)]}, {WAIT}),
        (lambda s: {"sends": [*s[:-1], s[-1]._replace(instance="a-1")]}, {OTHERS}),
        (lambda s: {"sends": [s[0]._replace(instance="ifinu"), *s[1:]]}, {OTHERS}),
        (lambda s: {"sends": [s[5], *s[:5], *s[6:]]}, {OFFLINE}),
        (lambda s: {"was_held": frozenset({"a-2"})}, {OFFLINE}),
        (lambda s: {"was_held": frozenset({"a-3"})}, {ALLOWED}),
        (lambda s: {"brake": 1.0}, {ALLOWED}),
        (lambda s: {"figures": figures(a_2={"breaches": {"too_fast": 2}})}, {ALLOWED}),
        (lambda s: {"figures": figures(b_1={"least_gap_s": 0.199})}, {"the numbers' gaps"}),
        (lambda s: {"figures": figures(b_1={"most_in_flight": 2})}, {"in flight at one number"}),
        (lambda s: {"tries": 54}, {"tries in vain at those two"}),
        (lambda s: {"left": 1}, {ALL}),
        (lambda s: {"letters": 1}, {ALL}),
    ],
)
def test_each_defect_of_a_number_is_found_where_it_is(changes, found):
    assert wrong_in(played(**changes(of_tenants()))) == found


# -- the week of charges


def week(**changes):
    """A correct week: each day one notice to each of six people; then receipts for what was paid."""
    first = date(2026, 12, 1)
    sends = [
        send(f"5511987674{n:03d}", 10.0)._replace(text=f"Mensalidade fatura-{n:02}")
        for _ in range(7)
        for n in range(20, 26)
    ]
    sends[20:20] = [send(f"5511987674{n:03d}", 10.0)._replace(text=f"Recebemos fatura-{n:02}") for n in (5, 11)]
    by_day = {first + timedelta(days=n): 6 for n in range(7)} | {first + timedelta(days=3): 8}
    whole = charges.Played(
        sends=sends, by_day=by_day, after=18, expected=44, undecided=0, reasons={"queued": 44, "skipped stale": 3}
    )
    return replace(whole, **changes)


def wrong_of_week(played):
    return {check.what for check in charges.judge(played) if not check.holds}


SENT, PAID = "40 charges over 7 days", "fatura-05 and fatura-11, paid in the middle"


def test_the_scene_of_the_charges_holds_for_a_correct_run():
    assert wrong_of_week(week()) == set()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"expected": 45}, {SENT}),
        ({"undecided": 1}, {"steps whose day had come"}),
        ({"after": 22}, {PAID}),
    ],
)
def test_each_defect_of_the_week_is_found_where_it_is(changes, found):
    assert wrong_of_week(week(**changes)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("Mensalidade fatura-05", PAID), ("Mensalidade fatura-17", "fatura-17, disputed")],
)
def test_a_notice_after_the_payment_or_the_dispute_is_found(text, found):
    sends = week().sends
    assert wrong_of_week(week(sends=[*sends[:-1], sends[-1]._replace(text=text)])) == {found}


def test_two_notices_to_one_person_in_a_day_are_found():
    sends = week().sends
    twice = [*sends[:-1], sends[-1]._replace(number=sends[-2].number)]
    assert wrong_of_week(week(sends=twice)) == {"notices to one person in a day"}
