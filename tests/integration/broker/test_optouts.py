"""Opt-outs on a real Redis."""

import json
from datetime import UTC, datetime

import pytest
import redis

from ifinu.broker import URGENT, events
from ifinu.broker.keys import EVENTS, optout_key
from ifinu.broker.optouts import ALL, Confirmation, OptOut, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms

PHONE, OTHER = "+5577998616740", "+5511987654321"
MASKED = "+55 77 9****-6740"
PSEUDONYMS = Pseudonyms(b"a key of the tests")
GOODBYE = Confirmation("optout:u1:42", URGENT, b'{"id":"optout:u1:42"}')


@pytest.fixture
def optouts(client):
    return OptOuts(client, PSEUDONYMS)


def opt_out_events(client):
    return [events.decode(fields) for _, fields in client.xrange(EVENTS)]


def test_an_opt_out_is_kept_with_when_and_where_and_without_the_phone(client, optouts):
    before_s = client.time()[0]
    assert optouts.add("u1", PHONE, source="whatsapp")
    found = optouts.find("u1", PHONE)
    assert found is not None
    assert (found.tenant, found.hash, found.phone, found.source) == ("u1", PSEUDONYMS.of(PHONE), MASKED, "whatsapp")
    assert before_s <= found.at.timestamp() <= client.time()[0] + 1
    (entry,) = client.hvals(optout_key("u1"))
    assert set(json.loads(entry)) == {"at", "source", "phone", "confirmation"}
    assert isinstance(json.loads(entry)["at"], int)
    assert b"8616740" not in entry + b"".join(client.hkeys(optout_key("u1")))


@pytest.mark.parametrize(("tenant", "asked"), [("u1", "u2"), ("u1", None), (None, "u1")])
def test_an_opt_out_applies_to_its_tenant_and_phone_only(optouts, tenant, asked):
    optouts.add(tenant, PHONE, source="cli")
    assert optouts.find(tenant, PHONE)
    assert optouts.find(asked, PHONE) is None
    assert optouts.find(tenant, OTHER) is None


def test_a_confirmation_is_sent_once_and_its_id_kept(client, optouts):
    assert optouts.add("u1", PHONE, source="whatsapp", confirmation=GOODBYE)
    again = Confirmation("optout:u1:43", URGENT, b"{}")
    assert not optouts.add("u1", PHONE, source="whatsapp", confirmation=again)
    assert client.lrange(URGENT, 0, -1) == [GOODBYE.message]
    (entry,) = client.hvals(optout_key("u1"))
    assert json.loads(entry)["confirmation"] == GOODBYE.id


def test_without_a_confirmation_nothing_is_sent(client, optouts):
    assert optouts.add("u1", PHONE, source="cli")
    (entry,) = client.hvals(optout_key("u1"))
    assert json.loads(entry)["confirmation"] == ""
    assert set(client.keys()) == {optout_key("u1").encode(), EVENTS.encode()}


def test_each_change_writes_one_event(client, optouts):
    for _ in range(2):
        optouts.add("u1", PHONE, source="whatsapp")
    for _ in range(2):
        optouts.remove("u1", PHONE)
    about = {"tenant": "u1", "phone": MASKED, "hash": PSEUDONYMS.of(PHONE)}
    assert opt_out_events(client) == [
        events.Event(events.Name.OPTOUT, data={**about, "source": "whatsapp", "on": True}),
        events.Event(events.Name.OPTOUT, data={**about, "source": "person", "on": False}),
    ]


def test_a_removed_person_gets_messages_again_and_may_opt_out_again(optouts):
    optouts.add(None, PHONE, source="cli")
    assert optouts.remove(None, PHONE)
    assert optouts.find(None, PHONE) is None
    assert not optouts.remove(None, PHONE)
    assert optouts.add(None, PHONE, source="cli")


def test_opt_outs_are_listed_for_one_tenant_and_for_all(optouts):
    assert list(optouts.all(ALL)) == []
    for tenant, phone in (("u1", PHONE), ("u1", OTHER), ("a:b", PHONE), (None, PHONE)):
        optouts.add(tenant, phone, source="cli")
    both = {PSEUDONYMS.of(PHONE), PSEUDONYMS.of(OTHER)}
    assert {optout.hash for optout in optouts.all("u1")} == both
    assert [optout.tenant for optout in optouts.all(None)] == [None]
    assert [optout.tenant for optout in optouts.all(ALL)] == [None, "a:b", "u1", "u1"]


def test_a_list_longer_than_a_page_is_complete(client, optouts):
    many = {f"{number:032x}": json.dumps({"at": number, "source": "cli", "phone": "****"}) for number in range(2500)}
    client.hset(optout_key("u1"), mapping=many)
    assert {optout.hash for optout in optouts.all(ALL)} == set(many)


def test_exported_opt_outs_are_restored_unchanged(client, optouts):
    once = OptOut("u1", PSEUDONYMS.of(PHONE), MASKED, "whatsapp", datetime(2026, 3, 1, 12, 30, 5, 123_000, UTC))
    assert optouts.restore(once)
    assert optouts.find("u1", PHONE) == once
    assert not optouts.restore(once)
    assert [event.data["on"] for event in opt_out_events(client)] == [True]


@pytest.mark.parametrize("key", [EVENTS, URGENT, optout_key("u1")])
def test_a_key_of_a_wrong_type_stops_an_opt_out_before_anything_is_written(client, optouts, key):
    client.set(key, "wrong")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        optouts.add("u1", PHONE, source="cli", confirmation=GOODBYE)
    assert client.keys() == [key.encode()]


def test_a_key_of_a_wrong_type_stops_a_removal_before_anything_is_written(client, optouts):
    optouts.add("u1", PHONE, source="cli")
    client.set(EVENTS, "wrong")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        optouts.remove("u1", PHONE)
    assert optouts.find("u1", PHONE)


def test_a_full_redis_accepts_opt_outs(client, optouts):
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("any", "thing")
        assert optouts.add("u1", PHONE, source="whatsapp")
        assert optouts.remove("u1", PHONE)
    finally:
        client.config_set("maxmemory", 0)


def test_keys_have_distinct_marks(client, optouts):
    assert optouts.key_mark == OptOuts(client, Pseudonyms(b"a key of the tests")).key_mark
    assert optouts.key_mark != OptOuts(client, Pseudonyms(b"another key")).key_mark
