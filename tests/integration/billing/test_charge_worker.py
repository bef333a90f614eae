"""A worker that sends messages about charges."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from bills import charge, customer, intent, tenant
from pix import pix
from processes import Fleet, Queue, Simulated, wait_until
from sqlalchemy import Engine, update

from ifinu import wire
from ifinu.billing.billing_schema import charges
from ifinu.billing.messages import compose
from ifinu.billing.texts import Texts
from ifinu.notification import Notification
from ifinu.render import Renderer


def test_what_is_sent_and_the_codes_that_follow_are_those_of_the_database(
    engine: Engine, fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    The amount and the Pix code changed after the message was queued; the second charge was cancelled.
    """
    now = datetime.now(UTC)
    texts = Texts(Renderer(codes_apart=True))
    with engine.begin() as connection:
        tenant(connection)
        seqs = []
        for n in (1, 2):
            customer(connection, f"k{n}", phone=f"+551198765432{n}")
            due = now.date() + timedelta(days=3)
            seqs.append(charge(connection, f"inv-{n}", f"k{n}", due=due, pix_code=pix("antes")))
        keys = [intent(connection, seq, "lembrete", state="queued") for seq in seqs]
        made = compose(connection, keys, now, texts)
        messages = [message for message in made.values() if isinstance(message, Notification)]
        connection.execute(update(charges).where(charges.c.seq == seqs[0]).values(amount=250, pix_code=pix("depois")))
        connection.execute(update(charges).where(charges.c.seq == seqs[1]).values(status="cancelled"))
    url = engine.url.render_as_string(hide_password=False)
    worker = fleet.start(IFINU_DATABASE_URL=url, IFINU_PIX_SEPARATE="true", IFINU_REFERENCE="true").ready()
    queue.push(*(json.dumps(wire.encode(message)).encode() for message in messages))
    wait_until(lambda: simulator.total() == 2 and queue.idle(), 30, lambda: worker.text()[-2000:])
    sent = [send.text for send in simulator.sends()]
    assert "*R$ 250,00*" in sent[0]
    assert "O código para pagar vem na próxima mensagem" in sent[0]
    assert sent[1] == pix("depois")
    assert '"reason": "charge_cancelled"' in worker.text()
