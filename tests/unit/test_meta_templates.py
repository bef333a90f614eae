"""Meta's templates: found, tried at the start, and filled in from a notification."""

from __future__ import annotations

import json

import pytest
from command_line import Shell
from unit.test_render import TODAY

from ifinu.errors import InvalidNotification
from ifinu.notification import Kind
from ifinu.render import Renderer, sample
from ifinu.render.template_sets import BrokenTemplates


def template(*texts: str, name: str = "cobranca", language: str = "pt_BR") -> str:
    parameters = [{"type": "text", "text": text} for text in texts]
    components = [{"type": "body", "parameters": parameters}]
    return json.dumps({"name": name, "language": language, "components": components})


@pytest.fixture
def folder(tmp_path):
    def write(files):
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
        return tmp_path

    return write


def found(renderer, kind=Kind.DUE, **values):
    return renderer.of_meta(sample(kind, TODAY).model_copy(update=values))


def test_a_tenants_template_comes_before_that_of_all(folder):
    renderer = Renderer(
        folder(
            {
                "vencimento.meta.json": template(name="of_all"),
                "u1/vencimento.meta.json": template(name="of_u1"),
                "u2/vencimento.txt.j2": "Olá",
            }
        )
    )
    assert [found(renderer, tenant=tenant).name for tenant in (None, "u1", "u2", "u3")] == [
        "of_all", "of_u1", "of_all", "of_all",
    ]  # fmt: skip
    assert found(renderer, Kind.REMINDER) is None
    assert found(Renderer()) is None


@pytest.mark.parametrize(
    "values", [{"text": "O que o produtor escreveu"}, {"id": "inv-1#pix"}, {"id": "optout:0123:1"}]
)
def test_a_given_text_and_what_answers_at_once_are_no_templates(folder, values):
    renderer = Renderer(folder({"vencimento.meta.json": template()}))
    assert found(renderer) is not None
    assert found(renderer, **values) is None


@pytest.mark.parametrize("codes_apart", [False, True])
def test_each_text_is_filled_in_and_the_rest_goes_as_it_is(folder, codes_apart):
    button = {"type": "button", "sub_type": "url", "index": 0, "parameters": [{"type": "text", "text": "{{ id }}"}]}
    source = json.loads(template("{{ nome }},\n  {{ valor }}", "até {{ vencimento }}", "{{ pix_copia_cola }}"))
    source["components"].append(button)
    renderer = Renderer(folder({"vencimento.meta.json": json.dumps(source)}), codes_apart=codes_apart)
    notification = sample(Kind.DUE, TODAY).model_copy(update={"name": "Ana\tLúcia"})
    filled = renderer.fill(renderer.of_meta(notification), notification, today=TODAY)
    assert (filled.name, filled.language) == ("cobranca", "pt_BR")
    body, button = filled.components
    due = notification.due_date.strftime("%d/%m/%Y")
    assert [each["text"] for each in body["parameters"]] == [
        "Ana Lúcia, R$ 1.234,50", f"até {due}", notification.pix_code,
    ]  # fmt: skip
    assert button == {
        "type": "button",
        "sub_type": "url",
        "index": 0,
        "parameters": [{"type": "text", "text": "sample"}],
    }
    assert {"Ana Lúcia, R$ 1.234,50", "sample"} <= set(filled.texts())


def test_a_value_that_is_missing_is_the_notifications_fault(folder):
    renderer = Renderer(folder({"vencimento.meta.json": template("{{ link_pagamento }}")}))
    bare = sample(Kind.DUE, TODAY, bare=True)
    with pytest.raises(InvalidNotification, match="is missing, and cobranca needs it") as raised:
        renderer.fill(renderer.of_meta(bare), bare, today=TODAY)
    assert raised.value.field == "link_pagamento"


def test_a_text_that_is_empty_is_the_notifications_fault_since_meta_refuses_it(folder):
    renderer = Renderer(folder({"vencimento.meta.json": template("{% if descricao %}{{ descricao }}{% endif %}")}))
    bare = sample(Kind.DUE, TODAY, bare=True)
    with pytest.raises(InvalidNotification):
        renderer.fill(renderer.of_meta(bare), bare, today=TODAY)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{", "Expecting property name"),
        ("[]", "is not an object with name, language, components"),
        ('{"name": "a", "language": "pt_BR"}', "is not an object with"),
        ('{"name": "", "language": "pt_BR", "components": []}', "name is not a text"),
        ('{"name": "a", "language": "pt_BR", "components": {}}', "components is not a list"),
        (template("{{ nomee }}"), "no value is called nomee"),
        (template("{{ nome"), "unexpected end of template"),
        (template("{{ nome.x }}"), "has no attribute 'x'"),
        (template(" "), "is empty"),
    ],
)
def test_a_broken_one_keeps_a_worker_from_starting(folder, source, words):
    with pytest.raises(BrokenTemplates) as raised:
        Renderer(folder({"u1/vencimento.meta.json": source}))
    (problem,) = raised.value.problems
    assert "u1/vencimento.meta.json" in problem
    assert words in problem


def test_a_misspelt_one_is_named(folder):
    with pytest.raises(BrokenTemplates, match="is not read"):
        Renderer(folder({"vencimento.meta.jsn": template()}))


def test_the_check_lists_them(folder, capsys, monkeypatch):
    ifinu = Shell(capsys, monkeypatch)
    path = folder({"u1/atraso.meta.json": template(name="atraso_1")})
    checked = ifinu("template", "check", "--templates", str(path), "--json").json
    assert checked["of_meta"] == [
        {
            "tenant": "u1",
            "kind": "atraso",
            "file": f"{path}/u1/atraso.meta.json",
            "name": "atraso_1",
            "language": "pt_BR",
        }
    ]
    assert "atraso.meta.json" in ifinu("template", "check", "--templates", str(path)).out
