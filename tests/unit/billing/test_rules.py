from __future__ import annotations

from datetime import date, time
from textwrap import dedent

import pytest

from ifinu.billing.rules import DEFAULT, Rule, Step, dump, load
from ifinu.errors import InvalidBilling

GOOD = """\
    name: academia
    steps:
      - {step: l5, kind: lembrete, days: -5, at: 10:30, valid_days: 5, text: cedo}
      - step: a15
        kind: atraso
        days: +15
        valid_days: 7
        every_days: 7
        every_max: 4
        effective_on: 2026-12-01
        condition: {min_amount: 49.90, method: [pix, boleto], automatic: false}
      - {step: pago, kind: pagamento, valid_days: 3}
"""


def loaded(text: str) -> Rule:
    return load(dedent(text))


def test_a_rule_is_read_as_it_is_written():
    assert loaded(GOOD) == Rule(
        "academia",
        (
            Step("l5", "lembrete", -5, at=time(10, 30), valid_days=5, text="cedo"),
            Step(
                "a15", "atraso", 15, valid_days=7, every_days=7, every_max=4, effective_on=date(2026, 12, 1),
                condition={"min_amount": "49.90", "method": ["pix", "boleto"], "automatic": False},
            ),
            Step("pago", "pagamento", trigger="payment", valid_days=3),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("rule", [DEFAULT, loaded(GOOD)], ids=["default", "own"])
def test_what_is_written_out_is_read_back(rule: Rule):
    assert load(dump(rule)) == rule


def test_the_default_rule_reminds_before_the_due_date_and_ends():
    """
    -3, 0, +1, +7, +15, then every 7 days at most 4 times, and a receipt.
    """
    of_days = [(step.kind, step.days, step.every_days, step.every_max) for step in DEFAULT.steps]
    assert of_days == [
        ("lembrete", -3, None, 0), ("vencimento", 0, None, 0), ("atraso", 1, None, 0), ("atraso", 7, None, 0),
        ("atraso", 15, 7, 4), ("pagamento", 0, None, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "becomes", "error"),
    [
        ("days: -5", "days: 0", "line 3: step l5: days: of a lembrete is below 0"),
        ("days: +15", "days: 0", "line 6: step a15: days: of an atraso is above 0"),
        ("days: +15", "days: 15.5", "line 6: step a15: days: '15.5' is no whole number"),
        ("valid_days: 5", "valid_days: 6", "line 3: step l5: valid_days: must be at most 5"),
        ("valid_days: 5", "valid_days: 0", "line 3: step l5: valid_days: must be from 1 to"),
        ("at: 10:30", "at: 25:00", "line 3: step l5: at: '25:00' is no time of day"),
        ("kind: atraso", "kind: aviso", "line 5: step a15: kind: 'aviso' is none of lembrete"),
        ("        every_max: 4\n", "", "line 4: step a15: every_max: must be from 1 to"),
        ("        every_days: 7\n", "", "line 8: step a15: every_max: needs every_days"),
        ("every_days: 7", "every_day: 7", "line 8: step: every_day: no such key; did you mean every_days?"),
        ("2026-12-01", "2026-13-01", "line 10: step a15: effective_on: '2026-13-01' is no day"),
        ("49.90", "49.999", "line 11: step a15: condition: min_amount: '49.999' is no amount"),
        ("49.90", "NaN", "line 11: step a15: condition: min_amount: 'NaN' is no amount"),
        ("[pix, boleto]", "cheque", "line 11: step a15: condition: method: 'cheque' is none of pix"),
        ("[pix, boleto]", "[]", "line 11: step a15: condition: method: names no method"),
        ("automatic: false", "automatic: no", "line 11: step a15: condition: automatic: 'no' is neither"),
        ("step: pago", "step: l5", "step l5: is there twice"),
        ("step: pago", "step: a.1", "line 12: step a.1: step: must be 1 to 20"),
        ("step: pago, ", "", "line 12: step: has no name"),
        ("kind: pagamento, ", "", "line 12: step pago: kind: is missing"),
        ("kind: pagamento", "kind: pagamento, days: 1", "line 12: step pago: days: has no meaning"),
        ("kind: pagamento", "kind: pagamento, trigger: due, days: 0", "line 12: step pago: trigger: of pagamento is"),
        ("kind: pagamento", "kind: pagamento, channel: email", "line 12: step pago: channel: 'email' is not there"),
        ("name: academia", "nome: academia", "line 1: nome: no such key; did you mean name?"),
        ("name: academia", "name: ''", "line 1: name: must be a text"),
        ("steps:\n", "steps:\n      x:\n", "line 3: steps: must be a list"),
        ("{step: pago", "{step: {pago", "line 13: is not YAML: "),
    ],
)
def test_a_wrong_rule_is_refused_with_line_step_and_field(was: str, becomes: str, error: str):
    assert was in GOOD
    with pytest.raises(InvalidBilling) as caught:
        loaded(GOOD.replace(was, becomes))
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize("text", ["", "- a", "name: a", "steps: []\nname: a", "name: a\nname: b\nsteps: []"])
def test_what_is_no_rule_is_refused(text: str):
    with pytest.raises(InvalidBilling):
        load(text)
