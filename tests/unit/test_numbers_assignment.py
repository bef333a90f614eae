from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.errors import UnknownInstance, WrongTenant
from ifinu.numbers.assignment import Route, route, sticky
from ifinu.numbers.directory import Directory, Entry, Tenancy

PHONE = "+5577998616740"


REGISTRY = Directory(
    "1",
    {name: Entry(name, tenant, "BAILEYS") for name, tenant in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("shared", "")]},
    {"a": Tenancy(("a1", "a2")), "b": Tenancy(("b1",))},
)


def way(tenant: str | None, named: str | None = None, taken: str = "", default: str = "ifinu", **more: bool) -> Route:
    return route(
        REGISTRY,
        tenant=tenant, named=named, phone=PHONE, taken=taken, default=default, registered_only=more.get("only", False),
    )  # fmt: skip


def test_a_tenant_without_numbers_goes_by_the_instance_of_the_settings():
    assert way("c") == way(None) == Route("ifinu", paced=False)


def test_a_tenant_goes_by_its_own_numbers_by_the_one_that_was_taken_if_any():
    assert way("a", taken="a2") == Route("a2", paced=True)
    assert way("a", taken="a1") == Route("a1", paced=True)
    assert way("a") in (Route("a1", paced=True), Route("a2", paced=True))


def test_a_named_instance_counts_more_than_the_number_that_was_taken():
    assert way("a", named="a1", taken="a2") == Route("a1", paced=True)
    assert way("a", named="other", taken="a2") == Route("other", paced=False)


def test_every_tenant_may_use_a_shared_number():
    assert way("c", taken="shared") == way("c", named="shared") == way("c", default="shared") == Route("shared", True)


@pytest.mark.parametrize(
    "door",
    [{"named": "b1"}, {"default": "b1", "tenant": "c"}, {"default": "b1", "tenant": None}],
    ids=["named by the producer", "the instance of the settings", "without a tenant"],
)
def test_no_door_leads_to_another_tenants_number(door: dict[str, str | None]):
    with pytest.raises(WrongTenant, match="another tenant"):
        way(**{"tenant": "a", **door})  # type: ignore[arg-type]


def test_a_lane_of_another_tenants_number_leads_back_to_ones_own():
    assert way("a", taken="b1").instance in ("a1", "a2")
    assert way("c", taken="b1") == Route("ifinu", paced=False)


def test_only_registered_instances_send_where_that_is_asked_for():
    for message in ({"tenant": "c"}, {"tenant": "a", "named": "other"}):
        with pytest.raises(UnknownInstance, match="ifinu instance list"):
            way(**message, only=True)  # type: ignore[arg-type]


@given(st.sets(st.text(min_size=1, max_size=5), min_size=2, max_size=6), st.integers(0, 99_999_999))
def test_a_person_stays_with_a_number_while_it_is_there(names: set[str], digits: int):
    phone = f"+55119{digits:08d}"
    chosen = sticky(sorted(names), phone)
    assert sticky(sorted(names, reverse=True), phone) == sticky(sorted(names), f"(11) 9{digits:08d}") == chosen
    other = sorted(names - {chosen})[0]
    assert sticky(sorted(names - {other}), phone) == chosen
