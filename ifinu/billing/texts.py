"""
The texts of messages about charges. The first of these that there is writes a message:

    the tenant's text that its step names    in the database, newest version (`ifinu template set`)
    the tenant's text of its kind            likewise
    the tenant's set, such as `ifinu`        text_sets/<set>/<kind>.txt.j2
    IFINU_TEMPLATES                          of the tenant, then of all (`render/template_sets.py`)
    ours                                     text_sets/standard/<kind>.txt.j2

A text sees the names of the wire, `render.NAMES_OF_CHARGES`, and `cobrancas`, a list in which each charge has names of
its own. A text that does not speak of `cobrancas` is for one charge: a message about several is then written by
`text_sets/standard/varias.txt.j2`. If a text cannot show a charge, ours is used instead, and an error is logged.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, Protocol

import jinja2
import structlog
from jinja2 import meta
from sqlalchemy import Connection, func, insert, select, tuple_

from ifinu.billing.billing_schema import billing_tenants, rule_steps, texts
from ifinu.errors import InvalidBilling, InvalidNotification, NotFound
from ifinu.notification import SAMPLE_DUE_IN_DAYS, Kind
from ifinu.render import NAMES, NAMES_OF_CHARGES, Renderer, money, plain, tidy
from ifinu.render.template_sets import LONGEST_TEXT, SUFFIX, TEMPLATE_FAULTS, Environment, mistakes

log = structlog.get_logger(__name__)

SETS = ("ifinu",)  # beside `standard`, which needs no name
LONGEST = LONGEST_TEXT - 20  # leaves room for the reference below it
_FOLDERS = Path(__file__).parent / "text_sets"
_SEVERAL = "varias" + SUFFIX
_CACHED = 2_000  # texts of tenants, a few KiB each
_SPACES = re.compile(r"\s+")
_CPF = re.compile(r"(?<![\d.])\d{3}\.\d{3}\.\d{3}-\d\d(?!\d)")


class Key(NamedTuple):
    """A version of a tenant's text."""

    tenant: str
    name: str
    version: int


class Text(NamedTuple):
    """A version of a tenant's text; an empty body puts the tenant back to the text that would be used without it."""

    name: str
    version: int
    body: str
    created_at: datetime


class Supplier(Protocol):
    """What a text may say of a tenant: a row of `billing_tenants` has it."""

    @property
    def legal_name(self) -> str: ...
    @property
    def trade_name(self) -> str | None: ...
    @property
    def document(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def signature(self) -> str | None: ...


class Line(NamedTuple):
    """
    One charge in a message.

    Attributes:
        values: What a text may print of it.
        total: What is to be paid for it.
    """

    values: Mapping[str, object]
    total: Decimal


class _Template(NamedTuple):
    template: jinja2.Template
    several: bool  # whether it speaks of several charges


class _WrongLength(ValueError):  # noqa: N818 - it says what is wrong
    """A text has no character, or too many."""


class Texts:
    """
    The texts as one process knows them.

    Args:
        renderer: Has the templates of `IFINU_TEMPLATES`, and says whether payment codes follow apart.
    """

    def __init__(self, renderer: Renderer | None = None) -> None:
        self._renderer = renderer or Renderer()
        self._kept: collections.OrderedDict[Key, _Template | None] = collections.OrderedDict()
        self._folder: dict[str, _Template] = {}  # of `IFINU_TEMPLATES`, by file

    @property
    def codes_apart(self) -> bool:
        """Whether payment codes follow in messages that hold nothing else."""
        return self._renderer.codes_apart

    def load(self, connection: Connection, keys: Iterable[Key]) -> None:
        """Read those of these texts that it does not know yet; no query if it knows them all."""
        known = set(keys)
        missing = known - self._kept.keys()
        for key in known - missing:
            self._kept.move_to_end(key)
        if missing:
            wanted = tuple_(texts.c.tenant, texts.c.name, texts.c.version).in_(sorted(missing))
            for row in connection.execute(select(texts).where(wanted)):
                self._kept[Key(row.tenant, row.name, row.version)] = _compiled(row.body) if row.body else None
        while len(self._kept) > max(_CACHED, len(known)):
            self._kept.popitem(last=False)

    def write(
        self,
        keys: Iterable[Key],
        kind: Kind,
        tenant: str,
        text_set: str | None,
        common: Mapping[str, object],
        lines: Sequence[Line],
    ) -> str:
        """
        Write the text of a message.

        Args:
            keys: The tenant's texts for it, the best first; loaded before.
            kind: Its kind.
            tenant: The tenant.
            text_set: The tenant's set.
            common: Values that concern no charge.
            lines: The charges, at least one.

        Raises:
            InvalidNotification: Even our text cannot show them.
        """
        chosen = self._chosen(keys, kind, tenant, text_set)
        if chosen is not None and (chosen.several or len(lines) == 1):
            try:
                return _fitted(chosen.template, common, lines)
            except TEMPLATE_FAULTS as exc:
                log.error("ifinu.text.failed", tenant=tenant, kind=kind.value, error=_words(exc))
        name = kind.value + SUFFIX if len(lines) == 1 else _SEVERAL
        try:
            return _fitted(_environment("standard").get_template(name), common, lines)
        except TEMPLATE_FAULTS as exc:
            raise InvalidNotification("text", f"{name} cannot show it: {type(exc).__name__}") from exc

    def _chosen(self, keys: Iterable[Key], kind: Kind, tenant: str, text_set: str | None) -> _Template | None:
        for key in keys:
            if (own := self._kept.get(key)) is not None:
                return own
        if text_set is not None and (of_set := _of_set(text_set, kind)) is not None:
            return of_set
        custom = self._renderer.custom(kind, tenant)
        if custom is None:
            return None
        file = str(custom.filename)
        if file not in self._folder:
            body = Path(file).read_text(encoding="utf-8")
            self._folder[file] = _Template(custom, _speaks_of_several(body))
        return self._folder[file]


def supplier(tenant: Supplier) -> dict[str, object]:
    """What a text may print of a tenant."""
    name = plain(tenant.trade_name) or plain(tenant.legal_name)
    values = {
        "empresa": name,
        "razao_social": plain(tenant.legal_name),
        "documento": plain(tenant.document),
        "endereco": plain(tenant.address),
        "assinatura": tenant.signature or name,
    }
    return {name: value for name, value in values.items() if value is not None}


def put(connection: Connection, tenant: str, name: str, body: str, now: datetime) -> int:
    """
    Store a new version of a tenant's text, unless it is what the newest one says.

    Args:
        name: A kind, or a name that a step of the rule has.
        body: The text; empty to go back to the text that would be used without it.

    Returns:
        Its version.

    Raises:
        InvalidBilling: It cannot be used; the error has all problems.
        NotFound: There is no such tenant.
    """
    if body and (problems := faults(body, Kind(name) if name in {*Kind} else None)):
        raise InvalidBilling(name, "; ".join(problems))
    locked = select(billing_tenants.c.id).where(billing_tenants.c.id == tenant).with_for_update()
    if connection.scalar(locked) is None:
        raise NotFound("tenant", tenant)
    newest = get(connection, tenant, name)
    if newest is not None and newest.body == body:
        return newest.version
    version = 1 if newest is None else newest.version + 1
    connection.execute(insert(texts).values(tenant=tenant, name=name, version=version, body=body, created_at=now))
    return version


def get(connection: Connection, tenant: str, name: str, version: int | None = None) -> Text | None:
    """A version of a tenant's text, by default the newest; None without one."""
    query = select(texts).where(texts.c.tenant == tenant, texts.c.name == name).order_by(texts.c.version.desc())
    if version is not None:
        query = query.where(texts.c.version == version)
    row = connection.execute(query.limit(1)).one_or_none()
    return None if row is None else Text(row.name, row.version, row.body, row.created_at)


def every(connection: Connection, tenant: str) -> list[Text]:
    """The newest version of each of a tenant's texts."""
    newest = select(texts.c.name, func.max(texts.c.version)).where(texts.c.tenant == tenant).group_by(texts.c.name)
    query = select(texts).where(texts.c.tenant == tenant, tuple_(texts.c.name, texts.c.version).in_(newest))
    rows = connection.execute(query.order_by(texts.c.name))
    return [Text(row.name, row.version, row.body, row.created_at) for row in rows]


def kinds_of(connection: Connection, tenant: str, name: str) -> list[Kind]:
    """The kinds of the messages that a text is for: that of its name, or those of the steps of the tenant's rule."""
    if name in {*Kind}:
        return [Kind(name)]
    named = (
        select(rule_steps.c.kind)
        .join(billing_tenants, billing_tenants.c.rule_id == rule_steps.c.rule_id)
        .where(billing_tenants.c.id == tenant, rule_steps.c.text == name)
        .distinct()
        .order_by(rule_steps.c.kind)
    )
    return [Kind(kind) for kind in connection.scalars(named)]


def builtin(kind: Kind, text_set: str | None = None) -> str:
    """The text of a kind in a set that comes with ifinu, or in ours if the set has none."""
    folders = ["standard"] if text_set is None else [text_set, "standard"]
    files = [_FOLDERS / folder / (kind.value + SUFFIX) for folder in folders]
    return next(file for file in files if file.exists()).read_text(encoding="utf-8")


def lint(body: str, kind: Kind, tenant: Supplier | None = None) -> list[str]:
    """
    What is wrong with a text: what cannot be used, and what the law or good sense asks of it.

    An `atraso` needs the supplier's name, document and address (CDC 42-A). If a text prints one part of a total, it
    needs all of them and the total, so that the parts add up.

    Args:
        tenant: Its supplier; None for a sample that has everything.
    """
    problems = faults(body, kind)
    if problems:
        return problems
    template = _compiled(body).template
    of = _SUPPLIER if tenant is None else supplier(tenant)
    common, (line,) = _samples(kind, {**_SUPPLIER, **of})[0]
    text = _SPACES.sub(" ", _fitted(template, common, [line]))
    if kind is Kind.OVERDUE:
        problems += _lacks_supplier(text, of)
    if kind is not Kind.PAID:
        problems += _lacks_parts(text, line.values, kind)
    document = str(of.get("documento", ""))
    if any(found != document for found in _CPF.findall(body)):
        problems.append("has a CPF: a text for everybody has no personal data of one person")
    return problems


def faults(body: str, kind: Kind | None) -> list[str]:
    """
    Why a text cannot be used: it is no template, names a value that there is not, is damaged, or fails with a sample.

    Args:
        kind: Its kind; None to try the samples of all.
    """
    environment = _environment("standard")
    try:
        tree = environment.parse(body)
    except jinja2.TemplateSyntaxError as exc:
        return [f"line {exc.lineno}: {exc.message}"]
    names = NAMES | NAMES_OF_CHARGES
    if problems := [f"line {line}: {problem}" for line, problem in mistakes(tree, names)]:
        return problems
    template = _compiled(body)
    for each in Kind if kind is None else (kind,):
        for common, lines in _samples(each, _SUPPLIER):
            if len(lines) > 1 and not template.several:
                continue
            try:
                _fitted(template.template, common, lines)
            except TEMPLATE_FAULTS as exc:
                about = "several charges" if len(lines) > 1 else "a charge"
                without = "" if "descricao" in lines[0].values else " without description, link and codes"
                return [f"fails with {about}{without}, kind {each.value}: {exc}"]
    return []


def _lacks_supplier(text: str, of: Mapping[str, object]) -> Iterator[str]:
    if not any(str(of[name]) in text for name in ("razao_social", "empresa")):
        yield "does not name the supplier: print {{ razao_social }} or {{ empresa }} (CDC 42-A)"
    for name, what in (("documento", "CPF or CNPJ"), ("endereco", "address")):
        if name not in of:
            yield f"the tenant has no {what}, which an atraso has to say (CDC 42-A)"
        elif _SPACES.sub(" ", str(of[name])) not in text:
            yield f"does not say the supplier's {what}: print {{{{ {name} }}}} (CDC 42-A)"


def _lacks_parts(text: str, values: Mapping[str, object], kind: Kind) -> Iterator[str]:
    there = [name for name in _PARTS if name in values]
    said = [name for name in there if str(values[name]) in text]
    if str(values["valor"]) not in text and (said or kind is Kind.OVERDUE):
        yield "does not say the total: print {{ valor }}"
    if kind is Kind.OVERDUE or set(said) - {"valor_original"}:
        for name in there:
            if name not in said:
                yield f"its parts do not add up to the total: print {{{{ {name} }}}} too, or include contas.txt.j2"


def _fitted(template: jinja2.Template, common: Mapping[str, object], lines: Sequence[Line]) -> str:
    """
    Render a text that is short enough; of many charges it lists as many as fit.

    Raises:
        TEMPLATE_FAULTS: It cannot show them, or is too long with one alone.
    """
    shown = len(lines)
    single = lines[0].values if shown == 1 else {}
    total = {"valor": money(sum((line.total for line in lines), Decimal(0)))} if shown > 1 else {}
    late = {"atrasada": True} if any("atrasada" in line.values for line in lines) else {}
    while True:
        others = {} if shown == len(lines) else {
            "mais": len(lines) - shown,
            "valor_das_outras": money(sum((line.total for line in lines[shown:]), Decimal(0))),
        }  # fmt: skip
        listed = [line.values for line in lines[:shown]]
        text = tidy(template.render({**common, **late, **single, **total, **others, "cobrancas": listed}))
        if 0 < len(text) <= LONGEST:
            return text
        if shown == 1 or not text:
            raise _WrongLength(f"its text has {len(text)} characters, not 1 to {LONGEST}")
        shown = max(1, min(shown - 1, shown * LONGEST // len(text)))


def _words(exc: Exception) -> str:
    """What went wrong, without values of a charge."""
    return str(exc) if isinstance(exc, (jinja2.UndefinedError, _WrongLength)) else type(exc).__name__


def _compiled(body: str) -> _Template:
    return _Template(_environment("standard").from_string(body), _speaks_of_several(body))


def _speaks_of_several(body: str) -> bool:
    return "cobrancas" in meta.find_undeclared_variables(_environment("standard").parse(body))


def _of_set(text_set: str, kind: Kind) -> _Template | None:
    if text_set not in SETS or not (_FOLDERS / text_set / (kind.value + SUFFIX)).exists():
        return None
    return _Template(_environment(text_set).get_template(kind.value + SUFFIX), several=False)


@functools.cache
def _environment(text_set: str) -> Environment:
    return Environment(jinja2.FileSystemLoader([_FOLDERS / text_set, _FOLDERS / "standard"]))


_PARTS = ("valor_original", "valor_pago", "desconto", "multa", "juros")
_SUPPLIER: Mapping[str, object] = {
    "empresa": "Academia Fit",
    "razao_social": "Academia Fit Atividades Físicas LTDA",
    "documento": "12.345.678/0001-95",
    "endereco": "Rua das Laranjeiras, 1.234, sala 56, São Paulo SP, 01234-567",
    "assinatura": "Academia Fit",
}
_COMMON: Mapping[str, object] = {"id": "c42.atraso.261205", "nome": "Maria " * 16 + "Silva", "hoje": "15/12/2026"}
_BARE: Mapping[str, object] = {
    "numero": "inv-42",
    "valor_original": "R$ 1.234,50",
    "vencimento": "05/12/2026",
    "dia_do_vencimento": "sábado",
    "vencimento_efetivo": "07/12/2026",
    "dia_do_vencimento_efetivo": "segunda-feira",
}
# As long as a charge may be.
_EXTRAS: Mapping[str, object] = {
    "descricao": "Mensalidade e taxa de matrícula " * 15 + "de dezembro",
    "link_pagamento": "https://pagamentos.exemplo.com.br/" + "a" * 300,
    "pix_copia_cola": "0" * 512,
    "linha_digitavel": "00190.50095 40144.816069 06809.350314 3 37370000000100",
    "valor_pago": "R$ 200,00",
}


def _samples(kind: Kind, of: Mapping[str, object]) -> list[tuple[Mapping[str, object], list[Line]]]:
    """A charge with all that it may have, one with no more than it must have, and several charges."""
    due_in = SAMPLE_DUE_IN_DAYS[kind]
    days = {"dias_para_vencer": due_in, "dias_de_atraso": -due_in}
    match kind:
        case Kind.OVERDUE:
            days |= {"atrasada": True}
            parts = {"multa": "R$ 20,69", "juros": "R$ 5,17", "valor": "R$ 1.060,36"}
        case Kind.PAID:
            parts = {"valor_pago": "R$ 1.234,50", "valor": "R$ 1.234,50"}
        case _:
            parts = {"desconto": "R$ 34,50", "valor": "R$ 1.000,00"}
    full = Line({**_BARE, **days, **_EXTRAS, **parts}, Decimal("1060.36"))
    bare = Line({**_BARE, **days, "valor": "R$ 1.234,50"}, Decimal("1234.50"))
    common = {**_COMMON, **of}
    return [(common, [full]), (common, [bare]), *([] if kind is Kind.PAID else [(common, [full, bare] * 20)])]
