"""
What a person reads: one Jinja template for each kind, in `templates/<tipo_notificacao>.txt.j2`.

A template sees the names of the wire: `id`, `nome`, `valor` ("R$ 1.234,50"), `vencimento` ("01/12/2026"),
`descricao`, `link_pagamento`, `pix_copia_cola`, and, where there is a due date, `dias_para_vencer` and
`dias_de_atraso` (whole days; the one is minus the other). What a notification lacks is false in an `if` and
refuses to be printed.

Values are data, never templates. WhatsApp formats `*bold*`, `_italic_`, `~struck~` and backticks, so these
are taken out of names and descriptions, save an underscore inside a word (`plano_anual`), which formats
nothing. Links and Pix codes stay as they are, on a line of their own.
"""

from __future__ import annotations

import difflib
import re
import traceback
from datetime import date
from decimal import Decimal
from pathlib import Path

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.payment_codes import spaced
from ifinu.reference import with_reference, without_references

_TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".txt.j2"
_LONGEST_TEXT = 4096  # characters that WhatsApp takes in one message

_FORMATTING = re.compile(r"[*~`]|(?<![^\W_])_|_(?![^\W_])")
_BLANK_LINES = re.compile(r"\n{3,}")
_TRAILING_SPACE = re.compile(r"[ \t]+$", re.MULTILINE)

# What a template may do wrong with a particular value, beside what Jinja itself reports.
_TEMPLATE_FAULTS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError)


def money(amount: Decimal) -> str:
    """Write an amount in BRL the Brazilian way, `R$ 1.234,50`; exact at any size."""
    return "R$ " + f"{amount:,.2f}".translate(str.maketrans(",.", ".,"))


def br_date(day: date) -> str:
    """Write a date the Brazilian way, `01/12/2026`."""
    return f"{day.day:02}/{day.month:02}/{day.year:04}"


class _Absent(jinja2.StrictUndefined):
    """A value the notification lacks: false in a condition, an error anywhere else."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override] # Jinja declares the one that always raises
        return False


class Renderer:
    """
    Turns notifications into texts.

    Args:
        templates: Directory of templates that replace the ones of the same name here; None for none.
        reference: Whether a text ends in the reference of its notification, see `reference.py`.
        codes_apart: Whether payment codes follow in messages that hold nothing else; the text then announces them.

    Raises:
        ConfigurationError: A template does not compile, names a value that does not exist, or fails with a
            complete notification; the message says the file and the line.
    """

    def __init__(self, templates: Path | None = None, *, reference: bool = False, codes_apart: bool = False) -> None:
        self.reference = reference
        self._codes_apart = codes_apart
        if templates is not None and not templates.is_dir():
            raise ConfigurationError(f"{templates}: no such directory of templates")
        directories = [path for path in (templates, _TEMPLATES) if path is not None]
        self._loader = jinja2.FileSystemLoader(directories)
        self._environment = ImmutableSandboxedEnvironment(
            loader=self._loader,
            undefined=_Absent,
            autoescape=False,  # plain text: an escaped & would reach the phone as &amp;
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        for name in self._environment.list_templates(filter_func=lambda name: name.endswith(_SUFFIX)):
            self._check(name)
        self._templates = {kind: self._environment.get_template(kind.value + _SUFFIX) for kind in Kind}
        for kind in Kind:
            self._try_out(kind)

    def render(self, notification: Notification, *, today: date) -> str:
        """
        Write the text of a notification; its own `text`, when it has one, goes out as it is, but for the reference.

        A line of that text which claims to be a reference is left out: by it another notification would be recognised.

        Args:
            notification: What to say, and to whom.
            today: The day in Brazil, which "amanhã" and "há 2 dias" count from.

        Raises:
            InvalidNotification: The template needs what the notification lacks, or the text is too long.
        """
        text = self._content(notification, today) if notification.text is None else _given(notification.text)
        return with_reference(text, notification.id) if self.refers(notification) else text

    def refers(self, notification: Notification) -> bool:
        """Whether the text of this notification ends in its reference."""
        return self.reference and not notification.without_reference

    def _content(self, notification: Notification, today: date) -> str:
        template = self._templates[notification.kind]
        try:
            text = _tidy(template.render(_values(notification, today, codes_apart=self._codes_apart)))
        except jinja2.UndefinedError as exc:
            lacking = next((name for name in _NAMES if exc.message == f"{name!r} is undefined"), "")
            raise InvalidNotification(lacking, f"is missing, and {template.name} needs it") from exc
        except _TEMPLATE_FAULTS as exc:
            raise InvalidNotification("", f"{template.name} cannot show it: {type(exc).__name__}") from exc
        if not 0 < len(text) <= _LONGEST_TEXT:
            raise InvalidNotification("", f"its text has {len(text)} characters, not 1 to {_LONGEST_TEXT}")
        return text

    def _check(self, name: str) -> None:
        try:
            source, path, _ = self._loader.get_source(self._environment, name)
        except UnicodeDecodeError as exc:
            raise ConfigurationError(f"{name}: is not UTF-8, at byte {exc.start}") from exc
        try:
            tree = self._environment.parse(source, name, path)
            self._environment.compile(source, name, path)
        except jinja2.TemplateSyntaxError as exc:
            raise ConfigurationError(f"{path}:{exc.lineno}: {exc.message}") from exc
        unknown = meta.find_undeclared_variables(tree) - _NAMES - self._environment.globals.keys()
        for node in tree.find_all(nodes.Name):
            if node.name in unknown:
                close = difflib.get_close_matches(node.name, _NAMES, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(_NAMES))}"
                raise ConfigurationError(f"{path}:{node.lineno}: no value is called {node.name}; {hint}")

    def _try_out(self, kind: Kind) -> None:
        template = self._templates[kind]
        try:
            sample = _SAMPLE.model_copy(update={"kind": kind})
            template.render(_values(sample, _SAMPLE_DAY, codes_apart=self._codes_apart))
        except _TEMPLATE_FAULTS as exc:
            frames = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename.endswith(_SUFFIX)]
            place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else template.filename
            raise ConfigurationError(f"{place}: {exc}") from exc


def _values(notification: Notification, today: date, *, codes_apart: bool = False) -> dict[str, object]:
    due = notification.due_date
    codes: dict[str, object] = {
        "pix_copia_cola": notification.pix_code,
        "linha_digitavel": notification.boleto_line and spaced(notification.boleto_line),
    }
    if codes_apart:
        codes = {"codigos_a_seguir": sum(code is not None for code in codes.values()) or None}
    values = {
        "id": notification.id,
        "nome": _plain(notification.name),
        "valor": None if notification.amount is None else money(notification.amount),
        "vencimento": None if due is None else br_date(due),
        "descricao": _plain(notification.description),
        "link_pagamento": notification.payment_link,
        **codes,
        "dias_para_vencer": None if due is None else (due - today).days,
        "dias_de_atraso": None if due is None else (today - due).days,
    }
    return {name: value for name, value in values.items() if value is not None}


def _given(text: str) -> str:
    if kept := without_references(text):
        return kept
    raise InvalidNotification("text", "holds nothing but a line that looks like the reference below our texts")


def _plain(value: str | None) -> str | None:
    """Take out what WhatsApp would read as formatting; None when nothing is left."""
    return None if value is None else " ".join(_FORMATTING.sub("", value).split()) or None


def _tidy(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", _TRAILING_SPACE.sub("", text)).strip()


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
_NAMES = frozenset(_values(_SAMPLE, _SAMPLE_DAY)) | _values(_SAMPLE, _SAMPLE_DAY, codes_apart=True).keys()
