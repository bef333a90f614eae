"""What a charge costs on a day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifinu.billing.messages import Fees, fees


@dataclass(frozen=True)
class Charge:
    amount: Decimal = Decimal("100.00")
    paid: Decimal = Decimal(0)
    discount: Decimal = Decimal(0)
    waives_fees: bool = False
    payable_on: date = date(2026, 12, 10)


@dataclass(frozen=True)
class Tenant:
    fine_percent: Decimal = Decimal("2.00")
    interest_percent_month: Decimal = Decimal("1.00")


@pytest.mark.parametrize(
    ("charge", "on", "parts"),
    [
        # left, fine, interest, discount, total, days late
        ({}, "2026-12-10", "100.00 0 0 0 100.00 0"),
        ({}, "2026-12-11", "100.00 2.00 0.03 0 102.03 1"),
        ({}, "2026-12-25", "100.00 2.00 0.50 0 102.50 15"),
        ({}, "2027-12-10", "100.00 2.00 12.17 0 114.17 365"),
        ({"amount": "33.33"}, "2026-12-11", "33.33 0.67 0.01 0 34.01 1"),
        ({"amount": "0.25"}, "2026-12-25", "0.25 0.01 0.00 0 0.26 15"),  # half a cent is rounded up
        ({"waives_fees": True}, "2026-12-25", "100.00 0 0 0 100.00 15"),
        ({"paid": "40.00"}, "2026-12-25", "60.00 1.20 0.30 0 61.50 15"),
        ({"paid": "40.00"}, "2026-12-01", "60.00 0 0 0 60.00 0"),
        ({"paid": "100.00"}, "2026-12-25", "0 0 0 0 0 15"),
        ({"paid": "100.01"}, "2026-12-25", "0 0 0 0 0 15"),
        ({"discount": "10.00"}, "2026-12-10", "100.00 0 0 10.00 90.00 0"),
        ({"discount": "10.00"}, "2026-12-11", "100.00 2.00 0.03 0 102.03 1"),
        ({"discount": "10.00", "paid": "95.00"}, "2026-12-10", "5.00 0 0 5.00 0 0"),
    ],
)
def test_the_parts_of_a_charge_on_a_day(charge, on, parts):
    exact = {name: value if isinstance(value, bool) else Decimal(value) for name, value in charge.items()}
    left, fine, interest, discount, total, days = parts.split()
    expected = Fees(*map(Decimal, (left, fine, interest, discount, total)), int(days))
    assert fees(Charge(**exact), Tenant(), date.fromisoformat(on)) == expected


@pytest.mark.parametrize(
    ("percents", "parts"),
    [(("0", "0"), ("0", "0")), (("10.00", "0"), ("10.00", "0")), (("0", "3.30"), ("0", "1.65"))],
)
def test_the_percentages_are_the_tenants(percents, parts):
    found = fees(Charge(), Tenant(*map(Decimal, percents)), date(2026, 12, 25))
    assert (found.fine, found.interest) == tuple(map(Decimal, parts))


_money = st.decimals("0.01", "999999.99", places=2)
_percent = st.decimals("0.00", "20.00", places=2)


@given(_money, _money, _money, _percent, _percent, st.integers(-400, 4000), st.booleans())
def test_the_total_is_the_sum_of_its_printed_parts(amount, paid, discount, fine, interest, days, waives):
    charge = Charge(amount, paid, discount, waives)
    found = fees(charge, Tenant(fine, interest), charge.payable_on + timedelta(days=days))
    printed = [Decimal(f"{part:.2f}") for part in found[:4]]
    assert found.total == printed[0] + printed[1] + printed[2] - printed[3]
    assert found.total >= 0
    assert found.left == max(amount - paid, Decimal(0))
    assert not (found.discount and (found.fine or found.interest))
