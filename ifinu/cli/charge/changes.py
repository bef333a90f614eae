"""`ifinu charge add` and `edit`."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

from ifinu.cli import billing_database, billing_view, terminal
from ifinu.cli.charge import fields
from ifinu.errors import ConfigurationError


def add(
    id: fields.Id,  # noqa: A002 - the argument's name
    customer: fields.Customer,
    amount: fields.Amount,
    due: fields.Due,
    tenant: billing_database.TenantId = None,
    description: fields.Description = None,
    discount: fields.Discount = None,
    fees: fields.Fees = None,
    method: fields.Method = None,
    link: fields.Link = None,
    pix: fields.Pix = None,
    boleto: fields.Boleto = None,
    boleto_pdf: fields.BoletoPdf = None,
    provider: fields.Provider = None,
    provider_id: fields.ProviderId = None,
    notify: fields.Notify = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Add a charge. Steps of its rule whose day has passed are not made up for.

    [bold]Examples[/bold]

    ifinu charge add inv-42 --customer k-9 --amount 149,90 --due 2026-12-10
    ifinu charge add inv-43 --tenant u1 --customer k-9 --amount 80 --due 10/12/2026 --method boleto --discount 5
    """
    from ifinu.billing import charges, customers

    options = fields.given(
        description=description, discount=discount, fees=fees, method=method, payment_link=link, pix_code=pix,
        boleto_line=boleto, boleto_pdf=boleto_pdf, provider=provider, provider_id=provider_id, notify=notify,
    )  # fmt: skip
    with billing_database.database() as engine, engine.begin() as database:
        of = billing_database.tenant_of(database, tenant).id
        charges.add(database, charges.NewCharge(of, id, customer, amount, due, **options), datetime.now(UTC))
        made = charges.get(database, of, id)
        document = billing_view.charge_document(made, customers.get(database, of, customer), reveal=False)
    last = (
        f", payable in time until {billing_view.written(made.payable_on)}" if made.payable_on != made.due_date else ""
    )
    words = f"Charge {made.id} added: {billing_view.brl(made.amount)}, due {billing_view.written(made.due_date)}{last}."
    terminal.answer(document, terminal.plain(words), as_json=as_json)


def edit(
    id: fields.Id,  # noqa: A002 - the argument's name
    tenant: billing_database.TenantId = None,
    customer: fields.Customer = None,
    amount: fields.Amount = None,
    due: fields.Due = None,
    description: fields.Description = None,
    discount: fields.Discount = None,
    fees: fields.Fees = None,
    method: fields.Method = None,
    link: fields.Link = None,
    pix: fields.Pix = None,
    boleto: fields.Boleto = None,
    boleto_pdf: fields.BoletoPdf = None,
    provider: fields.Provider = None,
    provider_id: fields.ProviderId = None,
    notify: fields.Notify = None,
    as_json: terminal.Json = False,
) -> None:
    """
    Change an open charge. What you leave out stays; '' clears it.

    Another due date withdraws what is planned or queued, and its steps begin anew.
    What is queued says the new amount when it is sent. Another customer gets what is
    not sent yet.

    [bold]Examples[/bold]

    ifinu charge edit inv-42 --due 2026-12-20
    ifinu charge edit inv-42 --amount 129,90 --description "" --no-fees
    """
    from ifinu.billing import charges, customers

    columns: dict[str, str | Decimal | date] = fields.given(
        customer_id=customer, amount=amount, due_date=due, description=description, discount=discount, fees=fees,
        method=method, payment_link=link, pix_code=pix, boleto_line=boleto, boleto_pdf=boleto_pdf, provider=provider,
        provider_id=provider_id, notify=notify,
    )  # fmt: skip
    if not columns:
        raise ConfigurationError("say what is to change, such as --due")
    with billing_database.database() as engine:
        with engine.begin() as database:
            of = billing_database.tenant_of(database, tenant).id
            ids = charges.edit(database, of, id, now=datetime.now(UTC), **columns)
            changed = charges.get(database, of, id)
            whose = customers.get(database, of, changed.customer_id)
        billing_database.cancel_in_redis(engine)
    document = billing_view.charge_document(changed, whose, reveal=False) | {"withdrawn": ids}
    words = f"Charge {id} changed." + (f" Messages withdrawn: {len(ids)}." if ids else "")
    terminal.answer(document, terminal.plain(words), as_json=as_json)
