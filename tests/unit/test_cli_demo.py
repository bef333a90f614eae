import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from ifinu.broker import QUEUES, DeadLetter
from ifinu.broker.backlog import Backlog
from ifinu.cli.demo import scenario, verdict
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
