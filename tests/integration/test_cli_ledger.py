"""`ifinu show`, `status`, `erase` and `doctor` against a real Valkey and both kinds of ledger."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import ledger_rows as rows
import pytest
from command_line import Shell
from integration.ledger.recording import record

from ifinu import phone
from ifinu.broker import NORMAL, Keys, dead_letters
from ifinu.broker.events import Event, Name
from ifinu.broker.keys import EVENTS, RECORDER, UNKNOWN, claim_key, number_key, senders_key
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.cli import ledger_status
from ifinu.ledger import retention, schema
from ifinu.ledger.states import State

NOW = datetime.now(UTC).replace(microsecond=0)
MARIA, JOAO = "+5577998616740", "+5511987651101"
KEY = "a-key-of-the-tests-of-32-letters"
MASKED = "+55 77 9****-6740"
AWAY = "postgresql://ifinu@127.0.0.1:1/none"


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_PHONE_KEY", KEY)
    monkeypatch.setenv("IFINU_DATABASE_URL", AWAY)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def there(ifinu, monkeypatch, ledger_url, ledger):
    """The ledger is configured and available."""
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    return ledger


def hash_of(e164):
    return Pseudonyms(KEY.encode()).of(e164)


def sent(engine, number, e164=MARIA, state=State.DELIVERED):
    at = NOW - timedelta(hours=1, minutes=number)
    rows.notification(
        engine, f"n{number}", state, at, phone=phone.mask(e164), phone_hash=hash_of(e164), key_id=f"K{number}",
        sent_at=at, delivered_at=at,
    )  # fmt: skip
    rows.event(
        engine, f"n{number}", "retrying", at - timedelta(seconds=9), seq=3 * number, attempts=1,
        due_ms=1_764_000_000_000, reason="gateway_error", error="[/]HTTP 500", hash=hash_of(e164),
    )  # fmt: skip
    rows.event(engine, f"n{number}", "sent", at, seq=3 * number + 1, key_id=f"K{number}", by="gateway", attempts=2)
    rows.receipt(engine, f"K{number}", State.DELIVERED, at, seq=3 * number + 2)


def bury(client, id_, body, reason="invalid"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    client.lpush(Keys.of(NORMAL).dead, dead_letters.encode(raw, reason=reason, error="why", now=NOW))


# -- show


def test_show_prints_the_timeline(ifinu, there):
    sent(there, 1)
    ended = ifinu("show", "n1")
    assert ended.code == 0
    first, second, *rest = ended.out.splitlines()
    assert first == "n1  delivered"
    assert second.startswith("It reached the phone at ")
    for expected in (MASKED, "K1", "t1", "lembrete"):
        assert any(expected in line for line in rest)
    what = [line.split()[2:] for line in rest[-3:]]
    assert what[0] == ["retrying", "gateway_error;", "[/]HTTP", "500", "1", "24/11/2025", "13:00:00"]
    assert what[1] == ["sent", "by", "gateway;", "id", "K1", "2"]
    assert what[2] == ["delivered"]
    assert hash_of(MARIA) not in ended.out


@pytest.mark.parametrize("key_id", ["K1", "K0"])
def test_show_finds_a_notification_by_any_of_its_whatsapp_ids(ifinu, there, key_id):
    sent(there, 1)
    rows.event(there, "n1", "unknown", NOW - timedelta(hours=2), key_id="K0")
    assert ifinu("show", key_id).out.splitlines()[0] == "n1  delivered"
    assert ifinu("show", key_id, "--json").json["id"] == "n1"
    assert ifinu("show", "K9").code == 1


def test_show_as_json(ifinu, there):
    sent(there, 1)
    found = ifinu("show", "n1", "--json").json
    assert (found["id"], found["state"], found["claim"], found["dead_letters"]) == ("n1", "delivered", None, 0)
    assert found["notification"]["phone"] == MASKED
    assert [one["name"] for one in found["events"]] == ["retrying", "sent", "receipt"]
    assert hash_of(MARIA) not in json.dumps(found)


@pytest.mark.parametrize("ledger_away", [False, True])
@pytest.mark.parametrize(
    ("claim", "buried", "state"),
    [
        ({"state": "sent", "key_id": "K"}, False, "sent"),
        ({"state": "sending"}, False, "sending"),
        ({"cancelled": "1"}, False, "cancelled"),
        ({}, True, "dead"),
        ({"state": "dead"}, True, "dead"),
        ({"state": "unknown"}, True, "unknown"),
    ],
)
def test_show_reads_a_state_that_only_redis_has(
    ifinu, client, monkeypatch, tmp_path, request, ledger_away, claim, buried, state
):
    if not ledger_away:
        file = request.getfixturevalue("_sqlite_template")
        monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{file}")
    if claim:
        client.hset(claim_key("n1"), mapping=claim)
    if buried:
        bury(client, "n1", {"id": "n1", "telefone": MARIA})
    ended = ifinu("show", "n1", "--json")
    assert (ended.code, ended.json["state"]) == (0, state)
    assert ("Shown without the ledger" in ended.err) == ledger_away
    assert "is not in the ledger" in ifinu("show", "n1").out


def test_show_reports_an_unknown_id(ifinu, there):
    ended = ifinu("show", "n1")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("n1 was not found.")


def test_show_does_not_report_an_unknown_id_while_the_ledger_is_away(ifinu):
    ended = ifinu("show", "n1")
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.startswith("error: the ledger failed")


def test_show_needs_no_redis_for_a_recorded_notification(ifinu, there, monkeypatch):
    sent(there, 1)
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://localhost:1")
    ended = ifinu("show", "n1", "--json")
    assert (ended.code, ended.json["state"]) == (0, "delivered")
    assert "Shown without Redis" in ended.err


@pytest.mark.parametrize("again", ["retrying", "sent"])
def test_show_says_that_a_message_was_purged_until_its_id_is_used_again(ifinu, there, client, valkey, again):
    body = json.dumps({"id": "n1", "tipo_notificacao": "lembrete", "telefone": MARIA})
    due_ms = round(NOW.timestamp() * 1000) + 10**7
    Event(Name.DEFERRED, "n1", {"reason": "window", "due_ms": due_ms}).write(client)
    client.zadd(Keys.of(NORMAL).delayed, {body: due_ms})
    assert ifinu("queue", "purge", "--delayed", "--yes").code == 0
    record(client, valkey.url, there)
    found = ifinu("show", "n1", "--json").json
    assert (found["state"], found["notification"]["due_at"]) == ("purged", None)
    assert found["summary"].startswith("It was not sent: its message was deleted from its queue.")
    assert ifinu("status", "--json").json["ledger"]["counts"] == [
        {"key": "purged", "total": 1, "states": {"purged": 1}}
    ]
    Event(Name(again), "n1", {"attempts": 1}).write(client)
    record(client, valkey.url, there)
    assert ifinu("show", "n1", "--json").json["state"] == again


def test_show_says_that_a_message_in_doubt_is_not_looked_up_after_a_purge(ifinu, there, client, valkey):
    due_ms = round(NOW.timestamp() * 1000) + 10**7
    client.hset(claim_key("n1"), mapping={"state": "unknown", "tag": "t", "in_flight": "f", "since": "1"})
    Event(Name.UNKNOWN, "n1", {"reason": "timeout", "due_ms": due_ms}).write(client)
    client.zadd(Keys.of(NORMAL).delayed, {json.dumps({"id": "n1"}): due_ms})
    assert ifinu("queue", "purge", "--delayed", "--yes", "--json").json["in_doubt"] == 1
    record(client, valkey.url, there)
    found = ifinu("show", "n1", "--json").json
    assert (found["state"], found["notification"]["due_at"]) == ("unknown", None)
    assert "it is not looked up. Check the phone" in found["summary"]


@pytest.mark.parametrize("reason", ["invalid", "gateway_error"])
def test_show_says_that_a_dead_letter_was_purged(ifinu, there, client, valkey, reason):
    Event(Name.DEAD, "n1", {"reason": reason}).write(client)
    bury(client, "n1", {"id": "n1"}, reason)
    assert ifinu("dlq", "purge", "--id", "n1", "--yes").code == 0
    record(client, valkey.url, there)
    ended = ifinu("show", "n1")
    assert ended.out.splitlines()[:2] == [
        "n1  dead", f"It was not sent and will not be ({reason}). Its dead letter was deleted.",
    ]  # fmt: skip


def test_show_says_that_the_dead_letter_of_a_message_in_doubt_was_purged(ifinu, there, client, valkey):
    Event(Name.HELD, "n1", {"reason": "unknown"}).write(client)
    bury(client, "n1", {"id": "n1"}, "unknown")
    letter = hashlib.sha1(client.lindex(Keys.of(NORMAL).dead, 0), usedforsecurity=False).hexdigest()
    client.hset(claim_key("n1"), mapping={"state": "unknown", "token": "t", "letter": letter})
    client.zadd(UNKNOWN, {"n1": 1})
    assert "Check the phone" in ifinu("show", "n1").out
    assert ifinu("dlq", "purge", "--id", "n1", "--yes").code == 0
    record(client, valkey.url, there)
    assert ifinu("show", "n1").out.splitlines()[:2] == [
        "n1  unknown",
        "It may have been sent. Its dead letter was deleted, so it is neither looked up nor sent again. If you know "
        "whether it was sent, run `ifinu unknown resolve n1`.",
    ]


# -- status


def test_status_counts(ifinu, there, client):
    for number, state in enumerate((State.READ, State.READ, State.DEAD)):
        sent(there, number, state=state)
    rows.notification(
        there,
        "late",
        State.SENT,
        NOW - timedelta(days=2),
        sent_at=NOW - timedelta(days=2),
        unconfirmed_at=NOW,
        tenant=None,
    )
    found = ifinu("status", "--json").json["ledger"]
    assert (found["by"], found["total"], found["unconfirmed"]) == ("state", 3, [])
    assert found["counts"] == [
        {"key": "read", "total": 2, "states": {"read": 2}},
        {"key": "dead", "total": 1, "states": {"dead": 1}},
    ]
    assert (found["waiting"], found["recorded"], found["gaps"]) == (0, False, [])
    found = ifinu("status", "--since", "7d", "--by", "tenant", "--json").json["ledger"]
    assert found["counts"] == [
        {"key": "t1", "total": 3, "states": {"read": 2, "dead": 1}},
        {"key": None, "total": 1, "states": {"sent": 1}},
    ]
    assert found["unconfirmed"] == [{"instance": "ifinu", "total": 1}]
    shown = ifinu("status", "--since", "7d", "--by", "tenant").out
    assert "ledger: 4 notifications in the last 7 d 0 h" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith(("t1", "tenant", "(none)"))] == [
        ["tenant", "total", "dead", "sent", "read"],
        ["t1", "3", "1", "0", "2"],
        ["(none)", "1", "0", "1", "0"],
    ]
    assert "unconfirmed: 1 sent from instance ifinu without a receipt in time" in shown


def test_status_counts_dropped_duplicates(ifinu, there):
    assert ifinu("status", "--json").json["ledger"]["duplicates"] == {"messages": 0, "ids": 0}
    assert "duplicates" not in ifinu("status").out
    for number in range(9):
        rows.event(there, f"n{number % 2}", "duplicate", NOW, seq=number, first="sent", attempts=0)
    rows.event(there, "n0", "duplicate", NOW, seq=9, reason="id_reused", error="says something else")  # a dead letter
    rows.event(there, "n0", "duplicate", NOW - timedelta(days=2), first="sent")
    assert ifinu("status", "--json").json["ledger"]["duplicates"] == {"messages": 9, "ids": 2}
    message = "duplicates: {} messages were dropped in the last {}, because their id had been used before (2 ids)"
    assert message.format(9, "1 d 0 h") in ifinu("status").out
    assert message.format(10, "3 d 0 h") in ifinu("status", "--since", "3d").out


@pytest.mark.parametrize("by", ["state", "kind", "tenant", "instance", "hour"])
def test_status_prints_each_grouping(ifinu, there, by):
    sent(there, 1)
    ended = ifinu("status", "--by", by)
    assert ended.code == 0
    assert f"\n{by} " in ended.out


def test_status_shows_unknown_messages_and_the_ledgers_lag(ifinu, there, client):
    quiet = ifinu("status").out
    assert "unknown" not in quiet
    assert "behind" not in quiet
    client.zadd(UNKNOWN, {"n1": 1, "n2": 2})
    Event(Name.CANCELLED, "n1").write(client)
    rows.add(there, schema.gaps, found_at=NOW, ms=1, seq=0, cause="went_back")
    shown = ifinu("status").out
    assert "unknown: 2 may have been sent; see `ifinu unknown list`" in shown
    assert "ledger is 1 events behind; no recorder runs" in shown
    assert "events were lost" in shown
    found = ifinu("status", "--json").json
    assert (found["unknown"], found["ledger"]["waiting"], len(found["ledger"]["gaps"])) == (2, 1, 1)


def test_a_ledger_that_is_away_does_not_break_status(ifinu, client):
    client.lpush(NORMAL, "x")
    ended = ifinu("status", "--json")
    assert ended.code == 0
    assert ended.json["ledger"]["error"].startswith("the ledger failed")
    assert ended.json["ledger"].keys() == {"error", "waiting", "recorded"}
    assert "ledger: the ledger failed" in ifinu("status").out


# -- erase


def test_erase_anonymises_a_person(ifinu, there, client):
    sent(there, 1)
    sent(there, 2)
    sent(there, 3, JOAO)
    bury(client, "n1", {"id": "n1", "tipo_notificacao": "lembrte", "telefone": "77 9861-6740"})
    bury(client, "n4", {"id": "n4", "cobranca": {"valor": "?", "cliente": {"telefone": "77998616740"}}})
    envelope = {
        "headers": {"task": "ifinu.send_notification", "id": "n5"},
        "properties": {"body_encoding": "utf-8"},
        "body": json.dumps([[], {"id": "n5", "phone": "77998616740"}, {}]),
    }
    bury(client, "n5", envelope)
    bury(client, "n6", {"id": "n6", "telefone": JOAO, "texto": f"ligue para {MARIA}"})
    bury(client, "n7", {"id": "n7", "telefone": 77998616740, "cobranca": "none"})
    bury(client, "n9", {"id": "n9", "telefone": None, "cobranca": {"cliente": ["Maria"]}})
    bury(client, "n8", b"\xff{")
    asked = ifinu("erase", "--phone", "77 99861-6740")
    assert (asked.code, asked.out) == (2, "")  # no terminal to confirm it on
    assert rows.count(there, schema.events) == 9

    client.hset(senders_key("wa1", "2026-11"), mapping={hash_of(MARIA): "t1", hash_of(JOAO): "t1"})
    new_chats, contacts = (
        f"{number_key('wa1')}:novos:20000",
        [f"ifinu:contato:t1:{hash_of(MARIA)}:{of}" for of in (20_000, "ultima")],
    )
    client.sadd(new_chats, hash_of(MARIA), hash_of(JOAO))
    client.expire(new_chats, 1_000)
    client.sadd(contacts[0], "n1")
    client.set(contacts[1], 1)
    ended = ifinu("erase", "--phone", "77 99861-6740", "--yes", "--json")
    assert not client.exists(*contacts)
    assert (client.scard(new_chats), client.sismember(new_chats, hash_of(MARIA))) == (2, 0)
    assert client.ttl(new_chats) > 0
    assert client.hgetall(senders_key("wa1", "2026-11")) == {hash_of(JOAO).encode(): b"t1"}

    assert (ended.code, ended.json) == (
        0, {"notifications": 2, "events": 6, "receipts": 2, "dead_letters": 4, "customers": 0},
    )  # fmt: skip
    assert retention.of_person(there, hash_of(MARIA)) == 0
    assert retention.of_person(there, hash_of(JOAO)) == 1
    kept = {json.loads(record)["id"] for record in client.lrange(Keys.of(NORMAL).dead, 0, -1)}
    assert kept == {"n6", "n9", None}
    assert ifinu("show", "n2").code == 1
    assert "99861" not in asked.err + ended.err + ended.out


def test_erase_says_that_unrecorded_events_remain(ifinu, there, client):
    Event(Name.CANCELLED, "n1").write(client)
    ended = ifinu("erase", "--phone", MARIA, "--yes")
    assert ended.code == 0
    assert ended.out.startswith("0 notifications anonymised\n")
    assert "1 events are not recorded yet" in ended.err


def test_erase_waits_until_all_events_are_recorded(there, client):
    Event(Name.CANCELLED, "n1").write(client)
    assert ledger_status.catch_up(client, there, 0.05) is False  # no recorder runs
    client.set(RECORDER, "somebody")
    assert ledger_status.catch_up(client, there, 0.05) is False  # the recorder holds the lead and does not record
    (last, _), *_ = client.xrange(EVENTS)
    ms, seq = map(int, last.split(b"-"))
    with there.begin() as connection:
        connection.execute(schema.recorder.delete())
    rows.add(there, schema.recorder, id=1, ms=ms, seq=seq, updated_at=NOW)
    assert ledger_status.catch_up(client, there, 0.05) is True


def test_erase_deletes_old_data(ifinu, there):
    sent(there, 1)
    rows.notification(there, "old", State.READ, NOW - timedelta(days=401))
    rows.event(there, "old", "sent", NOW - timedelta(days=401))
    ended = ifinu("erase", "--older-than", "400d", "--yes")
    assert ended.out == "1 notifications deleted\n1 events deleted\n0 receipts deleted\n"
    assert ifinu("show", "n1").code == 0
    assert ifinu("show", "old").code == 1


@pytest.mark.parametrize("arguments", [(), ("--phone", MARIA, "--older-than", "1d"), ("--phone", "123")])
def test_erase_refuses_unclear_arguments(ifinu, arguments):
    ended = ifinu("erase", *arguments, "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert "6740" not in ended.err


# -- doctor


def checks(ifinu, *names):
    found = {one["check"]: one for one in ifinu("doctor", "--json").json["checks"]}
    return [(found[name]["level"], found[name]["seen"]) if name in found else None for name in names]


def test_doctor_reports_a_good_ledger_as_ok(ifinu, there):
    name = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}[there.dialect.name]
    assert checks(ifinu, "ledger", "ledger schema", "recorder", "gaps", "phone key", "sending window") == [
        ("ok", f"{name} answers"), ("ok", "that of this version"), ("ok", "no events wait"), None, ("ok", "set"), None,
    ]  # fmt: skip


def test_doctor_says_that_the_ledger_is_away(ifinu):
    ((level, seen), *rest) = checks(ifinu, "ledger", "ledger schema", "gaps")
    assert (level, rest) == ("fail", [None, None])
    assert seen.startswith("the ledger failed")


def test_doctor_accepts_a_missing_ledger_file_before_the_first_worker(ifinu, monkeypatch, tmp_path):
    """
    It creates no file either.
    """
    file = tmp_path / "none.db"
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{file}")
    assert checks(ifinu, "ledger", "ledger schema") == [
        ("ok", "none yet: the first worker creates the file"), None,
    ]  # fmt: skip
    assert not file.exists()


def test_doctor_says_that_the_ledger_is_not_migrated(ifinu, monkeypatch, postgres):
    monkeypatch.setenv("IFINU_DATABASE_URL", postgres)
    assert checks(ifinu, "ledger", "ledger schema") == [
        ("ok", "PostgreSQL answers"), ("fail", "not that of this version"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("events", "recorder", "found"),
    [
        (1, False, ("warn", "1 events wait, and no recorder runs")),
        (1, True, ("ok", "1 events wait")),
        (1000, True, ("warn", "1,000 events wait")),
        (0, False, ("ok", "no events wait")),
    ],
)
def test_doctor_says_how_many_events_wait(ifinu, client, events, recorder, found):
    with client.pipeline() as pipe:
        for _ in range(events):
            pipe.xadd(EVENTS, {"event": "cancelled", "id": "", "data": "{}"})
        pipe.execute()
    if recorder:
        client.set(RECORDER, "somebody")
    assert checks(ifinu, "recorder") == [found]


def test_doctor_reports_gaps(ifinu, there):
    rows.add(there, schema.gaps, found_at=NOW, ms=1, seq=0, cause="went_back")
    rows.add(there, schema.gaps, found_at=NOW - timedelta(days=8), ms=1, seq=0, cause="went_back")
    assert checks(ifinu, "gaps") == [("warn", "events were lost 1 times in a week")]


@pytest.mark.parametrize(
    ("window", "level"), [("mon-fri 08:00-20:00", "ok"), ("mon-fri 20:00-08:00", "fail"), ("sometimes", "fail")]
)
def test_doctor_checks_the_sending_window(ifinu, monkeypatch, window, level):
    monkeypatch.setenv("IFINU_SENDING_WINDOW", window)
    monkeypatch.delenv("IFINU_PHONE_KEY")
    (found, key) = checks(ifinu, "sending window", "phone key")
    assert found[0] == level
    assert key == ("warn", "not set here: where no process has one, it is kept in Redis alone")


@pytest.mark.parametrize(("source", "level"), [("Olá, {{ nome }}!", "ok"), ("Olá, {{ nme }}!", "fail")])
def test_doctor_checks_the_configured_texts(ifinu, monkeypatch, tmp_path, source, level):
    (tmp_path / "lembrete.txt.j2").write_text(source, encoding="utf-8")
    monkeypatch.setenv("IFINU_TEMPLATES", str(tmp_path))
    ((found, said),) = checks(ifinu, "texts")
    assert found == level
    assert str(tmp_path) in said
