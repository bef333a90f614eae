"""The webhook application: its answers, and the data in Redis by the time it answers."""

import contextlib
import http.client
import itertools
import json
import socket
import time

import pytest
import structlog
from integration.receipts.conftest import PHONE_KEY, SECRET, Receiver, events_of, token
from processes import redis_server, stopping, wait_until
from tcp_proxy import Proxy

from ifinu import wire
from ifinu.broker import NORMAL, URGENT, Keys, lanes
from ifinu.broker.keys import EVENTS, answers_key, number_key, optout_key, script, seen_key, senders_key
from ifinu.broker.optouts import OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies
from ifinu.notification import Priority
from ifinu.numbers.directory import UNTIL_RELEASED
from ifinu.receipts.auth import INSTANCE_HEADER, headers_of
from ifinu.reference import reference_of, with_reference

PHONE = "+5511987654321"
JID = "5511987654321@s.whatsapp.net"
PSEUDONYM = Pseudonyms(PHONE_KEY.encode()).of(PHONE)
SAID_AT = 1_795_477_301


def update(key_id="3EB0AA", status="READ"):
    data = {"keyId": key_id, "remoteJid": JID, "fromMe": True, "status": status}
    return {"event": "messages.update", "instance": "wa1", "data": data}


def upsert(text, key_id="ACBB", **key):
    key = {"remoteJid": JID, "fromMe": False, "id": key_id} | key
    data = {"key": key, "message": {"conversation": text}, "messageTimestamp": SAID_AT}
    return {"event": "messages.upsert", "instance": "wa1", "data": data}


def sound(key_id, **key):
    """A voice message."""
    said = upsert("", key_id, **key)
    said["data"]["message"] = {"audioMessage": {"seconds": 3}}
    return said


def months():
    """This month and the one before, by the wall clock."""
    now = time.gmtime()
    before = (now.tm_year, now.tm_mon - 1) if now.tm_mon > 1 else (now.tm_year - 1, 12)
    return f"{now.tm_year}-{now.tm_mon:02}", f"{before[0]}-{before[1]:02}"


@pytest.mark.parametrize("path", ["/", "/messages-update", "/hooks/wa1/messages-update", "//", "/?x=1"])
def test_a_receipt_is_on_the_stream_once_it_is_answered(receiver, client, path):
    assert receiver.post(update(), path) == 200
    assert events_of(client, "receipt") == [{"key_id": "3EB0AA", "status": "read", "instance": "wa1"}]


def connection(state, code=200, instance="wa1"):
    data = {"state": state, "statusReason": code}
    return {"event": "connection.update", "instance": instance, "data": data}


def hold_of(client, instance="wa1"):
    until, reason = client.hmget(number_key(instance), "presa", "motivo")
    return int(until or 0), reason


@pytest.mark.parametrize("code", [401, 408, 428])
def test_a_registered_number_is_held_from_its_closing_to_its_opening(receiver, client, code):
    client.hset(number_key("wa1"), "par", 1)
    client.zadd(f"{NORMAL}:turnos", {"wa1": 5})  # a message waits for it
    far = round(UNTIL_RELEASED.timestamp() * 1000)
    assert receiver.post(connection("close", code)) == 200
    assert hold_of(client) == (far, b"desconectado")
    assert client.zscore(f"{NORMAL}:turnos", "wa1") == far
    assert receiver.post(connection("connecting")) == 200
    assert hold_of(client) == (far, b"desconectado")
    assert receiver.post(connection("open")) == 200
    assert hold_of(client) == (0, None)
    assert 5 < client.zscore(f"{NORMAL}:turnos", "wa1") < far  # it is looked at at once
    assert [event["state"] for event in events_of(client, "connection")] == ["close", "connecting", "open"]


def test_a_closed_connection_stops_a_lane_within_a_fetch_and_an_open_one_starts_it(receiver, client):
    """
    What is fetched while the number is closed waits in its lane, in order.
    """

    def fetch():
        answer = script("fetch")(client, Keys.of(NORMAL), (10, 60_000, f"w.{next(batches)}.", "g", "0.5", 300, ""))
        return [json.loads(raw)["id"] for raw in answer[4::4]]

    batches = itertools.count()
    client.set("ifinu:numeros:geracao", "g")
    client.sadd("ifinu:numeros", "wa1")
    client.hset(number_key("wa1"), mapping={"par": 10, "min": 0, "max": 0})
    for number in range(4):
        client.lpush(NORMAL, json.dumps({"id": f"m{number}", "instancia": "wa1"}))
        if number == 0:
            assert fetch() == ["m0"]
            assert receiver.post(connection("close", 428)) == 200
    assert fetch() == []
    assert (client.llen(NORMAL), lanes.total(client, NORMAL)) == (0, 3)
    assert receiver.post(connection("open")) == 200
    assert fetch() == ["m1", "m2", "m3"]


def test_an_open_connection_ends_no_other_hold(receiver, client):
    client.hset(number_key("wa1"), mapping={"par": 1, "presa": 9_999_999_999_999, "motivo": "guarda:too_fast"})
    assert receiver.post(connection("open")) == 200
    assert hold_of(client) == (9_999_999_999_999, b"guarda:too_fast")


@pytest.mark.parametrize("state", ["close", "open"])
def test_an_instance_that_is_not_registered_gets_no_key(receiver, client, state):
    assert receiver.post(connection(state)) == 200
    assert client.keys("*numero*") == []


def test_several_receipts_of_one_hook_are_several_events(receiver, client):
    several = update()
    several["data"] = [update("A")["data"], update("B", "ERROR")["data"]]
    assert receiver.post(several) == 200
    assert [(one["key_id"], one["status"]) for one in events_of(client, "receipt")] == [("A", "read"), ("B", "failed")]


def test_a_state_of_an_instance_is_an_event(receiver, client):
    body = {"event": "connection.update", "instance": "wa1", "data": {"state": "close", "statusReason": 401}}
    assert receiver.post(body) == 200
    assert events_of(client, "connection") == [{"instance": "wa1", "state": "close", "code": 401}]


def test_a_sent_message_is_evidence_for_its_reference(receiver, client):
    echo = upsert(with_reference("Olá", "inv-42:lembrete"), "3EB0AA", fromMe=True)
    assert receiver.post(echo | {"event": "send.message"}) == 200
    # Forwarded from the phone: to the same person, to another, and to one whose phone is unknown.
    assert receiver.post(upsert(with_reference("Olá", "inv-42:lembrete"), "3EB0BB", fromMe=True)) == 200
    for jid in ("5511987650001@s.whatsapp.net", "123456789012345@lid"):
        forwarded = upsert(with_reference("Olá", "inv-42:lembrete"), "3EB0CC", fromMe=True, remoteJid=jid)
        assert receiver.post(forwarded) == 200
    # A text that quotes the message is no evidence.
    assert receiver.post(upsert(f"{with_reference('', 'inv-43')}\nfoi paga", "3EB0DD", fromMe=True)) == 200
    key = seen_key(reference_of("inv-42:lembrete"), "wa1", PSEUDONYM)
    assert client.get(key) == b"3EB0AA"
    assert 172_700 < client.ttl(key) <= 172_800
    assert len(client.keys("ifinu:visto:*")) == 2


@pytest.mark.parametrize(
    "body",
    [
        update(status="PENDING"),
        upsert("Bom dia"),
        upsert("não quero sair"),
        sound("ACBB"),
        upsert("SAIR", remoteJid="120363040000000000@g.us"),
        {"event": "presence.update", "instance": "wa1", "data": {}},
        {"event": "messages.update", "instance": "wa1", "data": [None]},
        upsert("a text without a reference", fromMe=True),
    ],
)
def test_an_event_without_content_is_accepted_and_leaves_nothing(receiver, client, body):
    assert receiver.post(body) == 200
    assert client.keys("*") == []


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"{}", b"[" * 50_000])
def test_an_unreadable_event_is_not_requested_again(receiver, client, body):
    assert receiver.post(body) == 400
    assert client.keys("*") == []


def posted_in_chunks(line, chunks, headers):
    line.request("POST", "/", iter(chunks), headers, encode_chunked=True)
    response = line.getresponse()
    response.read()
    return response.status


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_skipped_and_the_connection_stays_usable(receiver, client, chunked):
    """
    An event with a photo inside: it is not repeated, and the next hook arrives on the same connection.
    """
    headers = {"Authorization": f"Bearer {token()}"}
    large = json.dumps(update() | {"photo": "x" * 3_000_000}).encode()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=20)) as line:
        if chunked:
            chunks = [large[start : start + 65_536] for start in range(0, len(large), 65_536)]
            assert posted_in_chunks(line, chunks, headers | {"Transfer-Encoding": "chunked"}) == 200
        else:
            line.request("POST", "/", large, headers)
            response = line.getresponse()
            response.read()
            assert response.status == 200
        assert client.keys("*") == []
        line.request("POST", "/", json.dumps(update()), headers)
        assert line.getresponse().status == 200
    assert len(events_of(client, "receipt")) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": "*/*"},
        {"Authorization": f"Bearer {token('another-secret-that-is-just-as-long')}"},
        {"Authorization": f"Bearer {token(exp=int(time.time()) - 120)}"},
        {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJhcHAiOiJldm9sdXRpb24ifQ."},
        {"X-Ifinu-Secret": "wrong"},
    ],
    ids=["nothing", "forged", "expired", "alg_none", "wrong_header"],
)
def test_a_client_without_the_secret_is_refused(receiver, client, headers):
    assert receiver.post(update(), **headers) == 401
    assert client.keys("*") == []


@pytest.mark.parametrize(
    ("shown", "speaks_for", "status"),
    [("wa1", "wa1", 200), ("wa2", "wa1", 401), ("wa1", "wa1 ", 401), ("Loja São José", "Loja São José", 200)],
)
def test_an_instances_token_is_valid_for_its_own_events_only(receiver, client, shown, speaks_for, status):
    """
    An instance's token can read the registration that the gateway stores for it.
    """
    registered = headers_of(shown, SECRET)
    headers = {INSTANCE_HEADER: registered[INSTANCE_HEADER], "Authorization": f"Bearer {token(registered['jwt_key'])}"}
    assert receiver.post(update() | {"instance": speaks_for}, **headers) == status
    assert len(events_of(client, "receipt")) == (status == 200)
    renamed = headers | {INSTANCE_HEADER: "another"}
    without = {"Authorization": headers["Authorization"]}
    assert [receiver.post(update(), **tried) for tried in (renamed, without)] == [401, 401]


def test_an_instance_without_its_own_secret_is_logged_once(valkey, client):
    with stopping(Receiver(valkey.url)) as receiver, structlog.testing.capture_logs() as lines:
        assert [receiver.post(update(key_id)) for key_id in ("A", "B")] == [200, 200]
        registered = headers_of("wa2", SECRET)
        own = {INSTANCE_HEADER: registered[INSTANCE_HEADER], "Authorization": f"Bearer {token(registered['jwt_key'])}"}
        assert receiver.post(update("C") | {"instance": "wa2"}, **own) == 200
    named = [line["instance"] for line in lines if line["event"] == "ifinu.webhook.shared_secret"]
    assert named == ["wa1"]


def test_the_secret_may_come_as_a_header(receiver, client):
    assert receiver.post(update(), **{"X-Ifinu-Secret": SECRET}) == 200
    assert len(events_of(client, "receipt")) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/healthz", 200), ("GET", "/readyz", 200), ("GET", "/", 405)]
)
def test_probes(receiver, method, path, status):
    assert receiver.ask(method, path) == status


def test_a_client_that_disconnects_midway_disturbs_no_other(receiver, client):
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\nContent-Length: 100\r\n\r\n{{"
    with socket.create_connection(("127.0.0.1", receiver.port)) as line:
        line.sendall(head.encode())
    assert receiver.post(update()) == 200
    assert len(events_of(client, "receipt")) == 1


# -- numbers with a pace


def test_a_message_typed_on_a_registered_number_counts_for_its_person_and_one_of_ours_does_not(receiver, client):
    client.hset(number_key("wa1"), mapping={"par": 1, "inquilino": "u1", "fuso": 0})
    ours = upsert("Fatura", "3EB0AA", fromMe=True) | {"event": "send.message"}
    assert receiver.post(ours) == 200
    assert client.keys("ifinu:contato:*") == []
    assert receiver.post(upsert("Oi, tudo bem?", "3EB0BB", fromMe=True)) == 200
    assert receiver.post(upsert("Oi, tudo bem?", "3EB0BB", fromMe=True)) == 200
    today = f"ifinu:contato:u1:{PSEUDONYM}:{int(time.time() // 86_400)}"
    assert client.smembers(today) == {b"3EB0BB"}
    assert 0 < client.pttl(today) <= 172_800_000
    assert client.exists(f"ifinu:contato:u1:{PSEUDONYM}:ultima") == 1
    assert client.hget(senders_key("wa1", months()[0]), PSEUDONYM) == b"u1"  # so it is no new chat


def test_a_message_typed_on_an_instance_that_is_not_registered_leaves_nothing(receiver, client):
    assert receiver.post(upsert("Oi, tudo bem?", "3EB0BB", fromMe=True)) == 200
    assert client.keys("ifinu:contato:*") + client.keys("ifinu:remetentes:*") == []


def test_the_people_who_write_to_a_registered_number_are_counted_once_a_day_however_often_they_do(receiver, client):
    client.hset(number_key("wa1"), mapping={"par": 1, "fuso": 0})
    hidden = {"remoteJid": "123456789012345@lid"}
    for body in (
        upsert("Bom dia", "AC01"),
        upsert("Bom dia", "AC01"),
        sound("AC02"),
        upsert("Já paguei", "AC03", remoteJid="5577998616740@s.whatsapp.net"),
        sound("AC04", **hidden),
        sound("AC04", **hidden),
        upsert("Bom dia", "AC05", remoteJid="120363040000000000@g.us"),
    ):
        assert receiver.post(body) == 200
    people = answers_key("wa1", int(time.time() // 86_400))
    assert client.pfcount(people) == 3
    assert 8 * 86_400 < client.ttl(people) <= 9 * 86_400
    heard_s = int(client.hget(number_key("wa1"), "ouve")) / 1000
    assert 0 <= time.time() - heard_s < 60
    raw = client.get(people)
    assert PSEUDONYM.encode() not in raw
    assert b"AC04" not in raw


# -- opt-outs


def test_a_confirmation_goes_as_its_numbers_tenant_since_no_other_may_send_from_it(receiver, client):
    client.hset(number_key("wa1"), mapping={"par": 1, "inquilino": "u1"})
    client.hset(senders_key("wa1", months()[0]), PSEUDONYM, "u9")  # the number was another tenant's
    assert receiver.post(upsert("Sair!")) == 200
    assert wire.decode(json.loads(client.lindex(URGENT, 0))).tenant == "u1"
    assert client.hexists(optout_key("u9"), PSEUDONYM)


@pytest.mark.parametrize(
    ("known", "tenant"),
    [
        ([], "*"),  # the tenant is unknown, so it covers all of them until the ledger was asked
        ([(0, "u1")], "u1"),
        ([(1, "u2")], "u2"),
        ([(0, "u1"), (1, "u2")], "u1"),
        ([(0, ""), (1, "u2")], None),  # the last message had no tenant
    ],
)
def test_an_opt_out_applies_to_the_tenant_that_wrote_last(receiver, client, known, tenant):
    for month, name in known:
        client.hset(senders_key("wa1", months()[month]), PSEUDONYM, name)
    client.hset(senders_key("wa2", months()[0]), PSEUDONYM, "somebody else")
    assert receiver.post(upsert("Sair!")) == 200
    assert [key.decode() for key in client.keys("ifinu:optout:*")] == [optout_key(tenant)]
    (said,) = events_of(client, "optout")
    assert said == {
        "tenant": tenant, "phone": "+55 11 9****-4321", "hash": PSEUDONYM, "source": "whatsapp", "on": True,
    }  # fmt: skip
    confirmation = wire.decode(json.loads(client.lindex(URGENT, 0)))
    assert (confirmation.id, confirmation.phone) == (f"optout:{PSEUDONYM}:{SAID_AT}000", PHONE)
    assert confirmation.tenant == (None if tenant == "*" else tenant)
    assert (confirmation.instance, confirmation.priority) == ("wa1", Priority.URGENT)
    assert confirmation.text.startswith("Pronto! Você não vai mais receber")
    entry = json.loads(client.hget(optout_key(tenant), PSEUDONYM))
    assert entry["confirmation"] == confirmation.id
    assert [answer.wish for answer in Replies(client).all()] == (["stop"] if tenant == "*" else [])


def test_an_opt_out_that_quotes_a_message_applies_at_once_and_the_ledger_resolves_its_tenant(receiver, client):
    client.hset(senders_key("wa1", months()[0]), PSEUDONYM, "u1")
    body = upsert("SAIR")
    body["data"]["message"] = {"extendedTextMessage": {"text": "SAIR", "contextInfo": {"stanzaId": "3EB0AA"}}}
    assert receiver.post(body) == 200
    assert [one["tenant"] for one in events_of(client, "optout")] == ["u1"]
    (answer,) = Replies(client).new(10)
    assert (answer.quoted, answer.tenants, answer.known) == ("3EB0AA", ("u1",), True)


@pytest.mark.parametrize(("known", "tenant"), [("u1", "u1"), (None, "*")])
def test_a_wrong_recipient_gets_no_message_until_a_person_decides(receiver, client, known, tenant):
    if known:
        client.hset(senders_key("wa1", months()[0]), PSEUDONYM, known)
    for _ in range(2):
        assert receiver.post(upsert("Não sou a Maria")) == 200
    (said,) = events_of(client, "optout")
    assert (said["tenant"], said["source"], said["on"]) == (tenant, "wrong_person", True)
    assert client.llen(URGENT) == 0  # no confirmation before the decision
    answers = Replies(client)
    (answer,) = answers.all()
    assert (answer.wish, answer.text, answer.phone) == ("wrong_person", "Não sou a Maria", "+55 11 9****-4321")
    answers.dismiss(answer)
    assert (answers.all(), client.keys("ifinu:optout:*")) == ([], [])
    assert [one["on"] for one in events_of(client, "optout")] == [True, False]


def test_dismissing_a_reply_lifts_no_opt_out_of_another_kind(receiver, client):
    client.hset(senders_key("wa1", months()[0]), PSEUDONYM, "u1")
    assert receiver.post(upsert("SAIR", "AC01")) == 200
    assert receiver.post(upsert("número errado", "AC02")) == 200
    (answer,) = Replies(client).all()
    Replies(client).dismiss(answer)
    assert client.hlen(optout_key("u1")) == 1


def test_an_ambiguous_reply_is_listed_and_changes_nothing(receiver, client):
    for _ in range(2):
        assert receiver.post(upsert("cancelar")) == 200
    assert client.keys("ifinu:optout:*") + client.lrange(URGENT, 0, -1) == []
    (answer,) = Replies(client).all()
    assert (answer.wish, answer.text, answer.hash) == ("maybe", "cancelar", PSEUDONYM)


def test_a_second_opt_out_gets_no_second_confirmation(receiver, client):
    for key_id in ("AC01", "AC01", "AC02"):
        assert receiver.post(upsert("SAIR", key_id)) == 200
    assert client.llen(URGENT) == 1
    assert len(events_of(client, "optout")) == 1
    assert len(list(OptOuts(client, Pseudonyms(PHONE_KEY.encode())).all("*"))) == 1


def test_a_reply_behind_a_lid_is_left_to_the_ledger_and_to_a_person(receiver, client):
    body = upsert("SAIR", remoteJid="123456789012345@lid")
    body["data"]["contextInfo"] = {"stanzaId": "3EB0AA"}
    with structlog.testing.capture_logs() as lines:
        assert receiver.post(body) == 200
        assert receiver.post(body) == 200
    (answer,) = Replies(client).all()
    assert (answer.wish, answer.hash, answer.quoted, answer.instance) == ("stop", None, "3EB0AA", "wa1")
    assert (answer.key_id, answer.text, answer.at.timestamp()) == ("ACBB", None, SAID_AT)
    (unresolved,) = [line for line in lines if line["event"] == "ifinu.optout.unresolved"]  # posted twice, logged once
    assert unresolved["quoted"] == "3EB0AA"
    assert "123456789012345" not in repr(lines) + repr(client.hgetall("ifinu:respostas"))


@pytest.mark.parametrize(
    ("key", "stopped", "open_answers"),
    [
        ({"remoteJid": JID, "fromMe": False}, 1, 1),
        ({"remoteJid": "5511900000000@s.whatsapp.net", "fromMe": True}, 0, 1),  # as the person's phone stores it
        ({"remoteJid": "123456789012345@lid", "fromMe": True}, 0, 1),
        ({"remoteJid": JID, "fromMe": True}, 0, 0),  # we edited our own message to them
    ],
)
def test_an_edited_message_counts_by_its_new_text(receiver, client, key, stopped, open_answers):
    data = {"key": key | {"id": "ACBB"}, "type": 14, "editedMessage": {"conversation": "SAIR"}}
    body = {"event": "messages.edited", "instance": "wa1", "sender": "5511900000000@s.whatsapp.net", "data": data}
    assert receiver.post(body) == 200
    assert (len(events_of(client, "optout")), len(Replies(client).all())) == (stopped, open_answers)


def test_without_a_configured_phone_key_the_one_in_redis_is_used(valkey, client):
    with stopping(Receiver(valkey.url, phone_key=None)) as receiver:
        assert receiver.post(upsert("SAIR")) == 200
    (out,) = OptOuts(client, Pseudonyms.load(client, None)).all("*")
    assert out.phone == "+55 11 9****-4321"


def test_no_personal_data_is_logged(receiver):
    with structlog.testing.capture_logs() as lines:
        receiver.post(upsert("quero sair"))
        receiver.post(update())
        receiver.post(upsert("SAIR"), **{"X-Ifinu-Secret": "wrong-one"})
        receiver.post(b'{"texto": "Maria", "telefone": "5511987654321"}')
    assert {line["event"] for line in lines} - {"ifinu.webhook.shared_secret"} == {
        "ifinu.optout.taken", "ifinu.webhook.refused", "ifinu.webhook.not_a_hook",
    }  # fmt: skip
    for secret in ("987654321", "98765-4321", "quero", "Maria", "wrong-one", SECRET):
        assert secret not in repr(lines)


# -- Redis is away


def test_hooks_during_a_redis_outage_get_an_error_and_pass_when_repeated(tmp_path):
    """
    It may start before Redis. Hooks that the gateway repeats are recorded, also on connections from before.
    """
    server = redis_server(tmp_path)
    with stopping(Receiver(server.url)) as receiver:
        assert (receiver.ask("GET", "/healthz"), receiver.ask("GET", "/readyz")) == (200, 503)
        assert receiver.post(update("A")) == 503
        assert receiver.post(upsert("SAIR")) == 503
        with server as running:
            assert receiver.ask("GET", "/readyz") == 200
            assert receiver.post(update("A")) == 200
            assert receiver.post(upsert("SAIR")) == 200
            running.kill()
            assert receiver.post(update("B")) == 503
            running.start()
            assert receiver.post(update("B")) == 200


def test_an_unresponsive_redis_is_given_up_within_seconds(valkey, client):
    with stopping(Proxy(valkey.port)) as proxy, stopping(Receiver(f"redis://127.0.0.1:{proxy.port}/0")) as receiver:
        assert receiver.post(update("A")) == 200
        proxy.silence(True)
        assert (receiver.post(update("B")), receiver.post(upsert("SAIR"))) == (503, 503)
        proxy.silence(False)
        proxy.cut()
        wait_until(lambda: receiver.post(update("B")) == 200)
    assert {one["key_id"] for one in events_of(client, "receipt")} == {"A", "B"}


def test_a_redis_that_refuses_writes_is_answered_with_503(receiver, client):
    client.set(EVENTS, "not a stream")
    assert receiver.post(update()) == 503
    client.delete(EVENTS)
    assert receiver.post(update()) == 200
