"""Several gateway processes behind one name, each at a different address: which one gets each request."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from processes import API_KEY, wait_until
from scripted_gateway import KEY, reply, serving
from shards import ELSEWHERE, HOSTS, NAME, gateway_of, management_of, pods, resolved

from ifinu.broker.keys import instance_key
from ifinu.broker.locations import Locations, creating
from ifinu.embedded import Valkey
from ifinu.errors import GatewayError, MaybeSent, Misconfigured, NotSent, Reason, SendError
from ifinu.gateway import ConnectionState, Evolution, ManagedShards, Management, Shards
from ifinu.gateway.breaker import is_outage
from ifinu.simulator import Cluster as Pods

PHONE = "+5577998616740"
TLS = Path(__file__).with_name("gateway_tls.pem")  # for localhost and 127.0.0.1
HELD = {"pod-0": ["a", "a2"], "pod-1": ["b"], "pod-2": ["c", "c2"]}


@pytest.fixture
def running() -> Iterator[Pods]:
    with pods(HELD) as started:
        yield started


@pytest.fixture
def memory(valkey: Valkey) -> Iterator[Locations]:
    with contextlib.closing(Locations(valkey.url)) as opened:
        yield opened


@pytest.fixture
def gateway(running: Pods, memory: Locations) -> Iterator[Shards]:
    with contextlib.closing(gateway_of(running, memory=memory)) as opened:
        yield opened


@pytest.fixture
def management(running: Pods) -> Iterator[ManagedShards]:
    with contextlib.closing(management_of(running)) as opened:
        yield opened


def failure(gateway: Shards, instance: str) -> SendError:
    with pytest.raises(SendError) as caught:
        gateway.send_text(instance, PHONE, "oi")
    return caught.value


def posts(running: Pods) -> dict[str, int]:
    """POSTs to the send routes of all processes, by outcome."""
    return dict(running.summary()["posts"]["by_outcome"])


def known(client: redis.Redis, instance: str) -> str | None:
    found = client.hget(instance_key(instance), "shard")
    return found and found.decode()


# -- sending


def test_each_message_goes_only_to_the_process_that_holds_its_instance(gateway, running, client):
    for instance in ("a", "b", "c", "c", "b", "a"):
        assert gateway.send_text(instance, PHONE, "oi").key_id
    assert [send.instance for send in running.sends] == ["a", "b", "c", "c", "b", "a"]
    assert posts(running) == {"ok": 6}
    assert [known(client, name) for name in "abc"] == list(HOSTS.values())


def test_another_worker_finds_the_process_without_asking(gateway, running, memory, monkeypatch):
    gateway.send_text("b", PHONE, "oi")
    monkeypatch.setattr(Management, "connection_state", lambda *_: pytest.fail("it was asked"))
    with contextlib.closing(gateway_of(running, memory=memory)) as another:
        assert another.send_text("b", PHONE, "oi").key_id
    assert posts(running) == {"ok": 2}


def test_a_wrong_hint_costs_one_post_and_is_corrected(gateway, running, client):
    client.hset(instance_key("b"), "shard", HOSTS["pod-0"])
    assert gateway.send_text("b", PHONE, "oi").key_id
    assert posts(running) == {"wrong_shard": 1, "ok": 1}
    assert known(client, "b") == HOSTS["pod-1"]


def test_without_redis_a_worker_uses_the_locations_it_knows(running):
    with contextlib.closing(Locations("redis://127.0.0.1:1/0")) as nowhere:
        gateway = gateway_of(running, memory=nowhere)
        assert gateway.send_text("b", PHONE, "oi").key_id
        running.move("b", "pod-2")
        assert gateway.send_text("b", PHONE, "oi").key_id
        gateway.close()
    assert posts(running) == {"ok": 2, "wrong_shard": 1}


def test_an_instance_that_moved_is_found_within_the_same_delivery(gateway, running, client):
    gateway.send_text("a", PHONE, "1")
    running.move("a", "pod-2")
    gateway.send_text("a", PHONE, "2")
    gateway.send_text("a", PHONE, "3")
    assert posts(running) == {"ok": 3, "wrong_shard": 1}
    assert known(client, "a") == HOSTS["pod-2"]


def test_a_process_that_comes_back_at_another_address_is_found(gateway, running):
    gateway.send_text("b", PHONE, "1")
    running.kill("pod-1")
    exc = failure(gateway, "b")
    assert (type(exc), exc.reason, is_outage(exc)) == (NotSent, Reason.WRONG_SHARD, False)
    assert gateway.send_text("a", PHONE, "2").key_id
    running.revive("pod-1", ELSEWHERE)
    wait_until(lambda: _sends(gateway, "b"))
    assert [send.text for send in running.sends] == ["1", "2", "oi"]


def _sends(gateway: Shards, instance: str) -> bool:
    try:
        return bool(gateway.send_text(instance, PHONE, "oi").key_id)
    except NotSent:
        return False


def test_while_the_name_still_resolves_to_a_dead_process_only_its_instances_wait(running):
    gateway = gateway_of(running, look_up=lambda host, port: HOSTS.values())
    gateway.send_text("b", PHONE, "1")
    running.kill("pod-1")
    assert failure(gateway, "b").reason is Reason.WRONG_SHARD
    assert gateway.send_text("c", PHONE, "2").key_id
    gateway.close()


@pytest.mark.parametrize("gone", [True, False])
def test_no_process_at_all_is_an_outage_of_the_gateway(running, gone):
    gateway = gateway_of(running, look_up=lambda host, port: () if gone else HOSTS.values())
    for name in HOSTS:
        running.kill(name)
    exc = failure(gateway, "a")
    assert (type(exc), exc.reason, is_outage(exc)) == (NotSent, Reason.UNREACHABLE, True)
    gateway.close()


def test_an_outage_after_the_instance_was_located_is_an_outage_and_ends(gateway, running):
    gateway.send_text("a", PHONE, "1")
    for name in HOSTS:
        running.kill(name)
    assert is_outage(failure(gateway, "a"))
    for name in HOSTS:
        running.revive(name)
    wait_until(lambda: _sends(gateway, "a"))


def test_an_instance_that_does_not_exist_is_reported_as_missing(gateway, running):
    exc = failure(gateway, "missing")
    assert (type(exc), exc.reason, exc.status) == (Misconfigured, Reason.INSTANCE_NOT_FOUND, 404)
    assert posts(running) == {}


def test_a_wrong_key_is_reported_as_wrong(running):
    gateway = Shards(f"http://{NAME}:{running.port}", "another-key", look_up=lambda host, port: HOSTS.values())
    exc = failure(gateway, "a")
    assert (type(exc), exc.reason, exc.status) == (Misconfigured, Reason.UNAUTHORIZED, 401)
    gateway.close()


def test_a_message_in_doubt_is_not_sent_through_another_process(gateway, running):
    gateway.send_text("b", PHONE, "1")
    running.set_fault("pod-1", next=["sent_then_reset"])
    with pytest.raises(MaybeSent):
        gateway.send_text("b", PHONE, "2")
    assert [send.text for send in running.sends] == ["1", "2"]


def test_a_message_waits_while_the_process_of_its_instance_starts(gateway, running):
    gateway.send_text("a", PHONE, "1")
    running.set_instance("a", held=False)
    assert failure(gateway, "a").reason is Reason.WRONG_SHARD
    running.move("a", "pod-0")
    assert gateway.send_text("a", PHONE, "2").key_id
    assert posts(running) == {"ok": 2, "wrong_shard": 1}


def test_a_real_dns_look_up_finds_all_processes(running, monkeypatch):
    asked = resolved(monkeypatch, running)
    gateway = Shards(f"http://{NAME}:{running.port}", API_KEY)
    for instance in "abc":
        gateway.send_text(instance, PHONE, "oi")
    gateway.close()
    assert posts(running) == {"ok": 3}
    assert asked == [NAME]


def test_one_address_is_one_process(simulator):
    simulator.control.set_fault(endings={})
    gateway = Shards(simulator.url, API_KEY)
    assert gateway.send_text("ifinu", PHONE, "oi").key_id
    assert failure(gateway, "missing").reason is Reason.INSTANCE_NOT_FOUND
    gateway.close()


# -- look-ups and changes


def test_a_look_up_goes_to_the_process_that_holds_the_instance_now(gateway, running):
    sent = gateway.send_text("a", PHONE, "fatura 42")
    running.move("a", "pod-1")
    now = datetime.now(UTC)
    around = {"since": now - timedelta(minutes=5), "until": now + timedelta(minutes=5)}
    found = gateway.find_messages("a", remote_jid=sent.remote_jid, **around)
    assert [one.key_id for one in found.messages] == [sent.key_id]
    running.kill("pod-1")
    with pytest.raises(GatewayError):
        gateway.find_messages("a", remote_jid=sent.remote_jid, **around)


def test_changes_go_to_the_holder(management, running):
    management.set_webhook("b", "http://us.test/hook", ["MESSAGES_UPDATE"])
    assert management.find_webhook("b").url == "http://us.test/hook"
    assert management.find_webhook("a") is None
    assert management.restart_instance("b").state is ConnectionState.OPEN
    management.logout_instance("b")
    assert management.connection_state("b") is ConnectionState.CLOSE
    assert management.connect_instance("b", number="5577998616740").qr.pairing_code
    assert management.connection_state("b") is ConnectionState.CONNECTING
    with pytest.raises(GatewayError, match="HTTP 400"):
        management.delete_instance("b")  # 2.3.7 refuses it once while the instance is connecting
    management.delete_instance("b")
    assert running.instances() == {"a", "a2", "c", "c2"}


@pytest.mark.parametrize("change", ["delete_instance", "logout_instance", "restart_instance", "find_webhook"])
def test_nothing_is_changed_if_no_process_is_seen_to_hold_the_instance(management, running, change):
    """
    `delete` at another process would erase the rows of a connected instance.
    """
    assert management.find_webhook("b") is None
    running.kill("pod-1")
    with pytest.raises(GatewayError, match="holds it"):
        getattr(management, change)("b")
    assert "b" in running.instances()


def test_a_change_does_not_trust_a_remembered_location(management, running):
    assert management.find_webhook("b") is None
    running.move("b", "pod-2")
    management.logout_instance("b")
    assert management.connection_state("b") is ConnectionState.CLOSE


@pytest.mark.parametrize(
    ("instance", "state"), [("a", ConnectionState.OPEN), ("c", ConnectionState.OPEN), ("b", ConnectionState.ABSENT)]
)
def test_the_state_comes_from_the_holder_and_is_absent_while_it_is_away(gateway, management, running, instance, state):
    running.kill("pod-1")
    assert gateway.connection_state(instance) is management.connection_state(instance) is state


def test_the_instances_of_all_answering_processes_are_listed(management, running):
    assert sorted(one.name for one in management.fetch_instances()) == ["a", "a2", "b", "c", "c2"]
    running.kill("pod-1")
    assert sorted(one.name for one in management.fetch_instances()) == ["a", "a2", "c", "c2"]
    for name in ("pod-0", "pod-2"):
        running.kill(name)
    with pytest.raises(GatewayError):
        management.fetch_instances()


def test_the_names_of_all_instances_are_known_only_if_all_answer(management, running):
    assert management.instance_names() == {"a", "a2", "b", "c", "c2"}
    running.kill("pod-1")
    with pytest.raises(GatewayError):
        management.instance_names()


def test_an_instance_is_created_at_the_process_with_the_fewest(management, running):
    assert management.create_instance("new").name == "new"
    assert running.holder("new") == "pod-1"
    assert management.connection_state("new") is ConnectionState.CLOSE


@pytest.mark.parametrize("killed", [(), ("pod-1",)])
def test_an_instance_whose_name_is_in_use_is_not_created(management, running, killed):
    for name in killed:
        running.kill(name)
    with pytest.raises(GatewayError, match="already") as caught:
        management.create_instance("b")
    assert caught.value.status == 403
    assert running.holder("b") == "pod-1"


def test_no_instance_is_created_if_no_process_answers(management, running):
    for name in HOSTS:
        running.kill(name)
    with pytest.raises(NotSent):
        management.create_instance("new")
    assert "new" not in running.instances()


def test_an_instance_is_created_by_one_client_at_a_time(client):
    with creating(client, "new"), pytest.raises(GatewayError, match="somebody is creating it"), creating(client, "new"):
        pytest.fail("both of them")
    with creating(client, "new"):
        pass


# -- one process of several, at its address


@pytest.mark.parametrize("kind", [Evolution, Management])
def test_the_host_header_has_the_name_and_not_the_address(kind: type) -> None:
    with serving() as serve:
        server = serve(reply(200, {"instance": {"instanceName": "wa1", "state": "open"}}))
        port = server.listener.getsockname()[1]
        with contextlib.closing(kind(f"http://gateway.test:{port}/evo", KEY, address="127.0.0.1")) as one:
            assert one.connection_state("wa1") is ConnectionState.OPEN
            assert repr(one) == f"{kind.__name__}('http://gateway.test:{port}/evo at 127.0.0.1')"
    (request,) = server.requests
    assert request.line.startswith("GET /evo/instance/connectionState/wa1 ")
    assert request.headers["host"] == f"gateway.test:{port}"


@pytest.mark.parametrize(("name", "good"), [("localhost", True), ("gateway.test", False)])
@pytest.mark.parametrize("kind", [Evolution, Management])
def test_the_certificate_must_match_the_name(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, good: bool
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TLS))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    with serving() as serve:
        server = serve(reply(200, {"instance": {"instanceName": "wa1", "state": "open"}}), tls=context)
        url = f"https://{name}:{server.listener.getsockname()[1]}"
        with contextlib.closing(kind(url, KEY, address="127.0.0.1")) as one:
            if good:
                assert one.connection_state("wa1") is ConnectionState.OPEN
            else:
                with pytest.raises(GatewayError, match="certificate verify failed"):
                    one.connection_state("wa1")
    assert len(server.requests) == good
