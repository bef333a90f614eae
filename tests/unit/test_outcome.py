from __future__ import annotations

import pytest
from celery.utils.saferepr import saferepr

from ifinu.broker.claims import ClaimState
from ifinu.broker.events import Event, Name
from ifinu.broker.leases import DUPLICATE, Settled
from ifinu.worker import outcome

TOLD = {"kind": "lembrete", "tenant": 'd\'Ávila "& filhos"\n', "error": "\\ud800 \ud800", "key_id": None}


@pytest.mark.parametrize(
    "settled",
    [
        Settled(
            ClaimState.SENT,
            Event(Name.SENT, "inv 42:'x'", TOLD),
            "3EB0",
            ("ifinu:remetentes:wa1:2026-11", "p1", "d'Ávila"),
        ),
        Settled(DUPLICATE, Event(Name.DUPLICATE, "inv-1", {"first": "sent"})),
        Settled(ClaimState.EXPIRED, Event(Name.EXPIRED, "i" * 200, {"reason": "x" * 5_000})),
    ],
)
def test_an_outcome_survives_celerys_repr(settled: Settled):
    """
    The worker's main process gets a task's result as Celery's repr, cut at the task's limit.
    """
    returned = outcome.encode(settled)
    assert outcome.decode(saferepr(returned, outcome.LONGEST)) == settled
    assert returned.startswith(f"{settled.state} {settled.key_id} {{")


@pytest.mark.parametrize("returned", ["None", "'sent'", "'sent 3EB0'", "'sent 3EB0 {'", "'sent 3EB0 {}'", "sent", "7"])
def test_a_text_that_is_not_an_outcome_is_refused(returned: str):
    with pytest.raises(ValueError, match=r"not|expected|Expecting|valid"):
        outcome.decode(returned)
