"""
The texts that people read: one Jinja template for each kind, in `templates/<tipo_notificacao>.txt.j2`.

A template sees the names of the wire: `id`, `nome`, `valor` ("R$ 1.234,50"), `vencimento` ("01/12/2026"),
`descricao`, `link_pagamento`, `pix_copia_cola`, and, where there is a due date, `dias_para_vencer` and
`dias_de_atraso` (whole days; the one is minus the other). What a notification lacks is false in an `if` and
refuses to be printed. `IFINU_TEMPLATES` replaces them, for all or for a tenant (`template_sets.py`). In a message about
a charge in the database it sees more, `NAMES_OF_CHARGES`.

Values are data, never templates. WhatsApp formats `*bold*`, `_italic_`, `~struck~` and backticks, so these
are taken out of names and descriptions, save an underscore inside a word (`plano_anual`), which formats
nothing. Links and Pix codes stay unchanged, each on a separate line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import jinja2

from ifinu.errors import InvalidNotification
from ifinu.notification import SAMPLE_DUE_IN_DAYS, Kind, Notification, is_answer
from ifinu.payment_codes import spaced
from ifinu.reference import with_reference, without_references
from ifinu.render.meta_templates import Filled, MetaTemplate
from ifinu.render.template_sets import LONGEST_TEXT, TEMPLATE_FAULTS, BrokenTemplates, source_of, wordings

_FORMATTING = re.compile(r"[*~`_](?:(?<!_)|(?<![^\W_]_)|(?![^\W_]))")
_BLANK_LINES = re.compile(r"\n{3,}")
_TRAILING_SPACE = re.compile(r"[ \t]+$", re.MULTILINE)
_MARKS = str.maketrans(",.", ".,")


def money(amount: Decimal) -> str:
    """Write an amount in BRL the Brazilian way, `R$ 1.234,50`; exact at any size."""
    return "R$ " + f"{amount:,.2f}".translate(_MARKS)


def br_date(day: date) -> str:
    """Write a date the Brazilian way, `01/12/2026`."""
    return f"{day.day:02}/{day.month:02}/{day.year:04}"


class Renderer:
    """
    Turns notifications into texts.

    Args:
        templates: Directory of templates that replace the ones here, see `template_sets.py`; None for none.
        reference: Whether a text ends in the reference of its notification, see `reference.py`.
        codes_apart: Whether payment codes follow in messages that hold nothing else; the text then announces them.

    Raises:
        ConfigurationError: A template does not compile, names a value that does not exist, fails with a complete
            notification, holds damage, or is read by nothing; the message says the file and the line.
    """

    def __init__(self, templates: Path | None = None, *, reference: bool = False, codes_apart: bool = False) -> None:
        self.reference = reference
        samples = {kind: _values(sample(kind, _SAMPLE_DAY), _SAMPLE_DAY, codes_apart=codes_apart) for kind in Kind}
        self.codes_apart = codes_apart
        self._of_all, self._of_tenant = wordings(templates, samples, NAMES | NAMES_OF_CHARGES)
        if problems := list(dict.fromkeys(self._problems_of_meta())):
            raise BrokenTemplates(problems)

    def source(self, kind: Kind, tenant: str | None) -> str:
        """Name the file of the template that a tenant's notification is written with."""
        return source_of(self._template(kind, tenant))

    def custom(self, kind: Kind, tenant: str | None) -> jinja2.Template | None:
        """The template of a kind and a tenant if `IFINU_TEMPLATES` has it; None if it is one of ours."""
        template = self._template(kind, tenant)
        return None if source_of(template) == "ifinu" else template

    def sources(self) -> Iterator[tuple[str | None, Kind, str]]:
        """Name the file of each template: the tenant's it is (None: all others'), the kind, and the file."""
        for tenant, wording in ((None, self._of_all), *self._of_tenant.items()):
            for kind in Kind:
                yield tenant, kind, source_of(wording.templates[kind])

    def sources_of_meta(self) -> Iterator[tuple[str | None, Kind, MetaTemplate]]:
        """Each of Meta's templates: the tenant's it is (None: all others'), the kind, and the template."""
        for tenant, wording in ((None, self._of_all), *self._of_tenant.items()):
            for kind, template in wording.of_meta.items():
                yield tenant, kind, template

    def of_meta(self, notification: Notification) -> MetaTemplate | None:
        """
        Meta's template for a notification; None without one.

        There is none for a text of its producer, or for what answers at once: a payment code, a confirmed opt-out.
        """
        if notification.text is not None or is_answer(notification.id):
            return None
        return self._of_tenant.get(notification.tenant or "", self._of_all).of_meta.get(notification.kind)

    def fill(self, template: MetaTemplate, notification: Notification, *, today: date) -> Filled:
        """
        Fill in Meta's template.

        Args:
            today: As for `render`.

        Raises:
            InvalidNotification: The template needs what the notification lacks.
        """
        try:
            return template.filled(_values(notification, today))
        except TEMPLATE_FAULTS as exc:
            raise _blame(template.name, exc) from exc

    def _problems_of_meta(self) -> Iterator[str]:
        """Try each of Meta's templates with a complete notification."""
        for _, kind, template in self.sources_of_meta():
            try:
                template.filled(_values(sample(kind, _SAMPLE_DAY), _SAMPLE_DAY))
            except TEMPLATE_FAULTS as exc:
                yield f"{template.file}: {exc}"

    def render(self, notification: Notification, *, today: date) -> str:
        """
        Write the text of a notification; its own `text`, when it has one, goes out as it is, but for the reference.

        A line of that text which claims to be a reference is left out: by it another notification would be recognised.

        Args:
            today: The day in Brazil, which "amanhã" and "há 2 dias" count from.

        Raises:
            InvalidNotification: The template needs what the notification lacks, or the text is too long.
        """
        text = self._content(notification, today) if notification.text is None else _given(notification.text)
        return with_reference(text, notification.id) if self.refers(notification) else text

    def refers(self, notification: Notification) -> bool:
        """Whether the text of this notification ends in its reference."""
        return self.reference and not notification.without_reference

    def _template(self, kind: Kind, tenant: str | None) -> jinja2.Template:
        return self._of_tenant.get(tenant or "", self._of_all).templates[kind]

    def _content(self, notification: Notification, today: date) -> str:
        template = self._template(notification.kind, notification.tenant)
        try:
            text = tidy(template.render(_values(notification, today, codes_apart=self.codes_apart)))
        except TEMPLATE_FAULTS as exc:
            raise _blame(template.name, exc) from exc
        if not 0 < len(text) <= LONGEST_TEXT:
            raise InvalidNotification("", f"its text has {len(text)} characters, not 1 to {LONGEST_TEXT}")
        return text


def _blame(template: str | None, exc: Exception) -> InvalidNotification:
    """The fault of a notification that the template of this name cannot show."""
    if isinstance(exc, jinja2.UndefinedError):
        lacking = next((name for name in NAMES if exc.message == f"{name!r} is undefined"), "")
        return InvalidNotification(lacking, f"is missing, and {template} needs it")
    return InvalidNotification("", f"{template} cannot show it: {type(exc).__name__}")


def sample(kind: Kind, today: date, *, tenant: str | None = None, bare: bool = False) -> Notification:
    """
    Make up a notification, to show or to try a template with.

    Args:
        bare: Whether it has only what its kind cannot do without.
    """
    due = today + timedelta(days=SAMPLE_DUE_IN_DAYS[kind])
    complete = _SAMPLE.model_copy(update={"kind": kind, "due_date": due, "tenant": tenant})
    if not bare:
        return complete
    extras = dict.fromkeys(("description", "payment_link", "pix_code", "boleto_line"))
    return complete.model_copy(update=extras | ({"due_date": None} if kind is Kind.PAID else {}))


def _values(notification: Notification, today: date, *, codes_apart: bool = False) -> dict[str, object]:
    due = notification.due_date
    days = None if due is None else (due - today).days
    codes: dict[str, object] = {
        "pix_copia_cola": notification.pix_code,
        "linha_digitavel": notification.boleto_line and spaced(notification.boleto_line),
    }
    if codes_apart:
        codes = {"codigos_a_seguir": sum(code is not None for code in codes.values()) or None}
    values = {
        "id": notification.id,
        "nome": plain(notification.name),
        "valor": None if notification.amount is None else money(notification.amount),
        "vencimento": None if due is None else br_date(due),
        "descricao": plain(notification.description),
        "link_pagamento": notification.payment_link,
        **codes,
        "dias_para_vencer": days,
        "dias_de_atraso": None if days is None else -days,
    }
    return {name: value for name, value in values.items() if value is not None}


def _given(text: str) -> str:
    if kept := without_references(text):
        return kept
    raise InvalidNotification("text", "holds nothing but a line that looks like the reference below our texts")


def plain(value: str | None) -> str | None:
    """Take out what WhatsApp would read as formatting; None when nothing is left."""
    return None if value is None else " ".join(_FORMATTING.sub("", value).split()) or None


def tidy(text: str) -> str:
    if " \n" in text or "\t\n" in text:
        text = _TRAILING_SPACE.sub("", text)
    return (_BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text).strip()


_SAMPLE_DAY = date(2026, 12, 1)
_SAMPLE = Notification(
    id="sample",
    kind=Kind.REMINDER,
    phone="+5577998616740",
    name="Maria",
    amount=Decimal("1234.50"),
    due_date=_SAMPLE_DAY,
    description="Mensalidade",
    payment_link="https://example.com/pagar",
    # The example of the central bank's manual, and one whose check digits are right.
    pix_code="00020126580014br.gov.bcb.pix0136123e4567-e12b-12d1-a456-426655440000"
    "5204000053039865802BR5913Fulano de Tal6008BRASILIA62070503***63041D3D",
    boleto_line="00190500954014481606906809350314337370000000100",
)
# Only a message about a charge in the database has these (`billing/texts.py`).
NAMES_OF_CHARGES = frozenset({
    "numero", "cliente", "hoje", "atrasada", "vencimento_efetivo", "dia_do_vencimento", "dia_do_vencimento_efetivo",
    "valor_original", "valor_pago", "desconto", "multa", "juros", "empresa", "razao_social", "documento", "endereco",
    "assinatura", "cobrancas", "mais", "valor_das_outras",
})  # fmt: skip
NAMES = frozenset(_values(_SAMPLE, _SAMPLE_DAY)) | _values(_SAMPLE, _SAMPLE_DAY, codes_apart=True).keys()
