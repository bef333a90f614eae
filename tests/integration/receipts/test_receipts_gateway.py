"""The simulated gateway posts, repeats and shuffles its webhooks, from their registration on."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request

import pytest
from command_line import Shell
from integration.receipts.conftest import PHONE_KEY, SECRET, Receiver, events_of, token
from processes import API_KEY, FIRST_NUMBER, raw, start, stopping, wait_until

from ifinu.broker import URGENT, clock
from ifinu.broker.keys import EVENTS as STREAM
from ifinu.broker.keys import claim_key, number_key, optout_key, seen_key
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies
from ifinu.embedded import free_port
from ifinu.gateway import Evolution, Management
from ifinu.numbers import answers
from ifinu.receipts.auth import headers_of
from ifinu.reference import reference_of, with_reference

FAST = {"server_ack": 10, "delivery_ack": 30, "read": 60}
EVENTS = {"MESSAGES_UPDATE", "SEND_MESSAGE", "MESSAGES_UPSERT", "MESSAGES_EDITED", "CONNECTION_UPDATE"}


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey, simulator):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    monkeypatch.setenv("IFINU_WEBHOOK_SECRET", SECRET)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def gateway(simulator):
    client = Evolution(simulator.url, API_KEY)
    yield client
    client.close()


@pytest.fixture
def management(simulator):
    client = Management(simulator.url, API_KEY)
    yield client
    client.close()


def send(gateway, number, text="Olá"):
    return gateway.send_text("ifinu", f"+55119{number}", text).key_id


def test_every_receipt_arrives_though_hooks_are_repeated_late_or_shuffled(ifinu, simulator, gateway, receiver, client):
    """
    Hooks are repeated, late and out of order; a receipt is refused, read before it is delivered, or behind a LID.
    """
    assert ifinu("instance", "webhook", "ifinu", "--url", receiver.url).code == 0
    simulator.control.set_fault(receipts_ms=FAST, webhooks={"duplicate": 0.5, "shuffle_ms": 100})
    usual = {"server_ack", "delivered", "read"}
    sent = [send(gateway, 81_000_100 + number, with_reference("Olá", f"inv-{number}")) for number in range(20)]
    wanted = dict.fromkeys(sent, usual)
    for number, statuses in (("87650009", {"failed"}), ("87650010", set()), ("87650022", usual), ("87650023", usual)):
        wanted[send(gateway, number)] = statuses
    expected = {(key_id, status) for key_id, statuses in wanted.items() for status in statuses}

    def seen():
        return {(one["key_id"], one["status"]) for one in events_of(client, "receipt")}

    wait_until(lambda: seen() == expected, seen=lambda: seen() ^ expected)
    pseudonyms = Pseudonyms(PHONE_KEY.encode())

    def evidence(number):
        pseudonym = pseudonyms.of(f"+55119{81_000_100 + number}")
        return client.get(seen_key(reference_of(f"inv-{number}"), "ifinu", pseudonym)).decode()

    assert [evidence(number) for number in range(20)] == sent
    wait_until(lambda: simulator.control.summary()["webhooks"]["waiting"] == 0)
    counts = simulator.control.summary()["webhooks"]
    assert counts["delivered"] > 20 * 4
    assert (counts["refused"], counts["retried"]) == (0, 0)


def test_a_person_who_replies_stop_is_opted_out_once_and_gets_one_confirmation(
    ifinu, simulator, gateway, receiver, client
):
    ifinu("instance", "webhook", "ifinu", "--url", receiver.url)
    simulator.control.set_fault(receipts_ms=FAST, webhooks={"duplicate": 1.0})
    send(gateway, "87650024")
    wait_until(lambda: events_of(client, "optout"))
    for variant in ("plain", "lid", "lid_alone"):
        simulator.control.inbound(instance="ifinu", number="5511987650024", text="Parar, por favor", variant=variant)
    simulator.control.inbound(instance="ifinu", number="5511987654321", text="vou sair agora")
    # send.message, three receipts and five texts from people; each twice
    wait_until(lambda: simulator.control.summary()["webhooks"]["delivered"] == 18, seen=simulator.control.summary)
    assert client.hlen(optout_key("*")) == 1  # Redis has no record of a tenant that wrote to them
    assert [one["phone"] for one in events_of(client, "optout")] == ["+55 11 9****-0024"]
    assert client.llen(URGENT) == 1


def test_who_answers_a_registered_number_is_counted_and_the_set_webhook_says_from_when(
    ifinu, simulator, gateway, receiver, client
):
    client.hset(number_key("ifinu"), mapping={"par": 1, "fuso": 0})
    began = clock.now(client)
    assert answers.people(client, {"ifinu": began}) == {}
    ifinu("instance", "webhook", "ifinu", "--url", receiver.url)
    since = clock.now(client)
    assert answers.people(client, {"ifinu": began}) == {}, "it was not known before"
    assert answers.people(client, {"ifinu": since}) == {"ifinu": 0}
    simulator.control.set_fault(webhooks={"duplicate": 1.0})
    for number, variant in (("5577998616740", "plain"), ("5577998616740", "lid"), ("5511987654321", "plain")):
        simulator.control.inbound(instance="ifinu", number=number, text="Já paguei", variant=variant)
    wait_until(lambda: simulator.control.summary()["webhooks"]["delivered"] == 6, seen=simulator.control.summary)
    assert answers.people(client, {"ifinu": since}) == {"ifinu": 2}
    assert answers.lately(client, "ifinu", since) == 2


def test_an_opt_out_takes_effect_though_redis_forgot_the_sender(valkey, simulator, queue, fleet, client):
    """
    The person replies to another instance two months later, and from a hidden phone, quoting a message they got.
    """
    with stopping(Receiver(valkey.url, phone_key=None)) as receiver:
        worker = fleet.start(IFINU_RECORDER="true")

        def say(number, tenant, id_):
            queue.push(raw(number, id=id_, telefone=f"77 9{FIRST_NUMBER + number}", usuario_id=tenant))
            wait_until(queue.idle, seen=worker.text)

        say(101, "u1", "n1")
        say(102, "u1", "n2")
        wait_until(lambda: client.xlen(STREAM) == 0, seen=worker.text)
        (key,) = client.keys("ifinu:remetentes:*")
        client.delete(key)
        key_id = client.hget(claim_key("n2"), "key_id").decode()
        elsewhere = {"remoteJid": f"55779{FIRST_NUMBER + 101}@s.whatsapp.net", "fromMe": False, "id": "AC01"}
        hidden = {"remoteJid": "123456789012345@lid", "fromMe": False, "id": "AC02"}
        for instance, key, context in (("other", elsewhere, {}), ("ifinu", hidden, {"stanzaId": key_id})):
            data = {"key": key, "message": {"conversation": "para de mandar mensagem"}, "contextInfo": context}
            assert receiver.post({"event": "messages.upsert", "instance": instance, "data": data}) == 200
        wait_until(lambda: not Replies(client).all(), seen=worker.text)
        sends = simulator.total()
        for number, tenant, id_ in ((101, "u1", "n3"), (102, "u1", "n4"), (101, "u2", "n5")):
            say(number, tenant, id_)
        states = [client.hget(claim_key(id_), "state").decode() for id_ in ("n3", "n4", "n5")]
        assert (states, simulator.total() - sends) == (["suppressed", "suppressed", "sent"], 1)


def test_a_change_of_state_arrives(ifinu, simulator, receiver, client):
    ifinu("instance", "webhook", "ifinu", "--url", receiver.url)
    simulator.control.set_instance("ifinu", state="close")
    wait_until(lambda: events_of(client, "connection"))
    assert events_of(client, "connection") == [{"instance": "ifinu", "state": "close", "code": 200}]


def test_a_gateway_with_another_secret_is_refused(ifinu, simulator, gateway, receiver, client, monkeypatch):
    monkeypatch.setenv("IFINU_WEBHOOK_SECRET", "a-secret-of-yesterday-that-was-long-enough")
    ifinu("instance", "webhook", "ifinu", "--url", receiver.url)
    simulator.control.set_fault(receipts_ms=FAST)
    send(gateway, "81000100")
    wait_until(lambda: simulator.control.summary()["webhooks"]["refused"] == 4, seen=simulator.control.summary)
    assert client.keys("*") == []


# -- the command line


def test_registering_shows_the_previous_webhook_and_no_secret(ifinu, management, monkeypatch):
    assert ifinu("instance", "webhook", "ifinu", "--show").out == "none\n"
    management.set_webhook("ifinu", "http://other.test/hook", ["CALL"], headers={"x-token": "their-secret"})
    assert "http://other.test/hook: CALL, with x-token" in ifinu("instance", "webhook", "ifinu", "--show").out
    monkeypatch.setenv("IFINU_WEBHOOK_URL", "http://ifinu-webhook:8090")
    done = ifinu("instance", "webhook", "ifinu")
    assert done.code == 0
    assert "before: http://other.test/hook: CALL, with x-token" in done.out
    assert "now:    http://ifinu-webhook:8090: MESSAGES_UPDATE" in done.out
    again = ifinu("instance", "webhook", "ifinu", "--url", "http://127.0.0.1:8090/", "--json")
    assert again.json["before"]["url"] == "http://ifinu-webhook:8090"
    now = again.json["webhook"]
    assert (now["url"], now["enabled"]) == ("http://127.0.0.1:8090", True)
    assert now["headers"] == ["jwt_key", "x-ifinu-instance"]
    assert set(now["events"]) == EVENTS
    assert ifinu("instance", "webhook", "ifinu", "--show", "--json").json == {"webhook": now}
    for secret in (SECRET, "their-secret"):
        assert secret not in done.out + again.out
    found = management.find_webhook("ifinu")
    assert (set(found.events), found.headers) == (EVENTS, headers_of("ifinu", SECRET))
    assert SECRET not in repr(found.headers)  # an instance's token can read these headers


@pytest.mark.parametrize(
    ("unset", "arguments", "code", "said"),
    [
        ((), ("webhook", "ifinu"), 2, "give --url or set IFINU_WEBHOOK_URL"),
        ((), ("webhook", "ifinu", "--url", "ftp://x"), 2, "must be http://host:port"),
        (("IFINU_WEBHOOK_SECRET",), ("webhook", "ifinu", "--url", "http://x"), 2, "IFINU_WEBHOOK_SECRET is not set"),
        (("IFINU_EVOLUTION_API_KEY",), ("list",), 2, "IFINU_EVOLUTION_API_KEY is not set"),
        ((), ("webhook", "missing", "--url", "http://x"), 1, "does not exist"),
        ((), ("state", "missing"), 1, "does not exist"),
    ],
)
def test_a_missing_setting_option_or_instance_is_named(ifinu, monkeypatch, unset, arguments, code, said):
    for name in unset:
        monkeypatch.delenv(name)
    ended = ifinu("instance", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert said in ended.err


@pytest.mark.parametrize(("state", "code"), [("open", 0), ("connecting", 1), ("close", 1)])
def test_the_state_of_an_instance_is_shown(ifinu, simulator, state, code):
    simulator.control.set_instance("ifinu", state=state)
    ended = ifinu("instance", "state", "ifinu")
    assert (ended.out, ended.code) == (f"{state}\n", code)
    assert ifinu("instance", "state", "ifinu", "--json").json == {"name": "ifinu", "state": state}
    (row,) = ifinu("instance", "list", "--json").json["instances"]
    assert (row["name"], row["state"], row["channel"]) == ("ifinu", state, "WHATSAPP-BAILEYS")
    table = ifinu("instance", "list").out
    assert "ifinu" in table
    assert state in table


def test_the_webhook_does_not_start_without_its_secret_or_its_port(ifinu, monkeypatch, receiver):
    taken = ifinu("webhook", "--host", "127.0.0.1", "--port", str(receiver.port))
    assert (taken.code, "in use" in taken.err) == (2, True)
    monkeypatch.delenv("IFINU_WEBHOOK_SECRET")
    ended = ifinu("webhook")
    assert (ended.code, "IFINU_WEBHOOK_SECRET is not set" in ended.err) == (2, True)


def test_the_webhook_serves_as_a_command_takes_the_secret_before_too_and_ends_at_sigterm(valkey, tmp_path, client):
    port = free_port()
    log = tmp_path / "webhook.log"
    before = "a-secret-of-yesterday-that-was-long-enough"
    settings = {
        "IFINU_REDIS_URL": valkey.url, "IFINU_LOG_FORMAT": "json",
        "IFINU_WEBHOOK_SECRET": SECRET, "IFINU_WEBHOOK_SECRET_PREVIOUS": before,
    }  # fmt: skip
    process = start("ifinu", ["webhook", "--host", "127.0.0.1", "--port", str(port)], os.environ | settings, log)
    try:
        wait_until(lambda: "startup complete" in log.read_text() or process.poll() is not None, seen=log.read_text)
        for key_id, shown in (("A", SECRET), ("B", before)):
            receipt = {"keyId": key_id, "status": "READ", "fromMe": True}
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/messages-update",
                json.dumps({"event": "messages.update", "instance": "ifinu", "data": receipt}).encode(),
                {"Authorization": f"Bearer {token(shown)}"},
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert [one["key_id"] for one in events_of(client, "receipt")] == ["A", "B"]
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_a_simulator_posts_to_the_webhook_named_in_its_environment(tmp_path, receiver, client):
    """
    As the chart starts both: no registration is needed, and the secret is sent along.
    """
    environment = os.environ | {
        "IFINU_EVOLUTION_API_KEY": API_KEY, "IFINU_WEBHOOK_URL": receiver.url, "IFINU_WEBHOOK_SECRET": SECRET,
    }  # fmt: skip
    port = free_port()
    command = [sys.executable, "-m", "ifinu", "simulator", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("listening on")
        url = f"http://127.0.0.1:{port}"
        with contextlib.closing(Evolution(url, API_KEY)) as gateway:
            key_id = send(gateway, "87650123")
        with contextlib.closing(Management(url, API_KEY)) as management:
            hook = management.find_webhook("ifinu")
        assert (hook.url, hook.headers) == (receiver.url, {"jwt_key": SECRET})
        wait_until(
            lambda: {one["status"] for one in events_of(client, "receipt") if one["key_id"] == key_id} >= {"read"}
        )
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
