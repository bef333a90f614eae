import pytest
from command_line import Shell
from unit.test_render import TODAY

from ifinu.errors import ConfigurationError, InvalidNotification
from ifinu.notification import Kind, Notification
from ifinu.render import Renderer, sample
from ifinu.render.template_sets import BrokenTemplates


@pytest.fixture
def ifinu(capsys, monkeypatch):
    return Shell(capsys, monkeypatch)


@pytest.fixture
def folder(tmp_path):
    """`folder(files)` writes a folder of templates and returns its path."""

    def write(files):
        for name, source in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
        return tmp_path

    return write


def text(renderer, kind=Kind.DUE, tenant=None):
    return renderer.render(sample(kind, TODAY, tenant=tenant, bare=True), today=TODAY)


def test_a_tenants_texts_come_before_the_shared_and_the_built_in_ones(folder):
    renderer = Renderer(
        folder(
            {
                "vencimento.txt.j2": "De todos. {% include 'assinatura.txt.j2' %}",
                "assinatura.txt.j2": "Loja",
                "u1/vencimento.txt.j2": "De u1. {% include 'assinatura.txt.j2' %}",
                "u1/assinatura.txt.j2": "Loja u1",
                "u2/assinatura.txt.j2": "Loja u2",
                "u3/lembrete.txt.j2": "Lembrete de u3.",
            }
        )
    )
    assert text(renderer) == text(renderer, tenant="u9") == "De todos. Loja"
    assert text(renderer, tenant="u1") == "De u1. Loja u1"
    assert text(renderer, tenant="u2") == "De todos. Loja u2"  # the tenant's part in the shared text
    assert text(renderer, tenant="u3") == "De todos. Loja"
    assert text(renderer, Kind.REMINDER, "u3") == "Lembrete de u3."
    assert text(renderer, Kind.REMINDER, "u1") == text(Renderer(), Kind.REMINDER)


@pytest.mark.parametrize(
    ("name", "tenant", "others"),
    [
        ("u1", "u1", ["U1", "u1 ", "u1/", "./u1", "u1/.", "x/../u1"]),
        ("lojas%2Fcentro", "lojas/centro", ["lojas", "centro", "lojas%2Fcentro"]),
        ("%2E%2E", "..", ["."]),
        ("50%25", "50%", ["50%25"]),
        ("%2Eoculta", ".oculta", ["oculta"]),
        ("São João", "São João", ["sao joao"]),
        ("vencimento", "vencimento", []),
    ],
)
def test_a_tenant_has_the_folder_of_its_name_and_no_other(folder, name, tenant, others):
    path = folder({f"{name}/vencimento.txt.j2": "Deste.", ".git/vencimento.txt.j2": "De ninguém."})
    (path.parent / "vencimento.txt.j2").write_text("De fora.", "utf-8")
    renderer = Renderer(path)
    assert text(renderer, tenant=tenant) == "Deste."
    ours = text(Renderer())
    for other in [*others, "", "/", "..", "../", str(path), ".git", "u1\x00"]:
        if other != tenant:
            given = sample(Kind.DUE, TODAY, bare=True).model_copy(update={"tenant": other})
            assert renderer.render(given, today=TODAY) == ours, other


def test_two_folders_of_one_tenant_are_refused(folder):
    path = folder({"a%2fb/vencimento.txt.j2": "Um.", "a%2Fb/vencimento.txt.j2": "Outro."})
    with pytest.raises(ConfigurationError, match="is the same tenant's as"):
        Renderer(path)


def test_other_files_beside_the_templates_are_ignored(folder):
    path = folder(
        {"..data/lembrete.txt.j2": "{{", "README.md": "{{", "velho/notas.md": "x", ".lembrete.txt.j2.swp": "{{"}
    )
    (path / "lembrete.txt.j2").symlink_to(path / "..2026" / "lembrete.txt.j2")
    folder({"..2026/lembrete.txt.j2": "Ligado."})
    assert text(Renderer(path), Kind.REMINDER) == "Ligado."


@pytest.mark.parametrize(
    ("files", "place", "words"),
    [
        ({"u1/lembrete.txt.j2": "Olá\n{{ nme }}"}, "u1/lembrete.txt.j2:2: ", "is called nme; did you mean nome?"),
        ({"parte.txt.j2": "{% if %}"}, "parte.txt.j2:1: ", "Expected an expression"),
        ({"lembrete.txt.j2": "Olá\n\n{nome}, vence"}, "lembrete.txt.j2:3: ", "has '{nome}', a placeholder"),
        ({"lembrete.txt.j2": "Olá {{ nome }}!<br>"}, "lembrete.txt.j2:1: ", "has '<br>', HTML"),
        ({"lembrete.txt.j2": "{% if nome %}\nAmanhÃ£\n{% endif %}"}, "lembrete.txt.j2:2: ", "has 'Ã£'"),
        ({"lembrete.txt.j2": "{{ nome }}\n&nbsp;"}, "lembrete.txt.j2:2: ", "has '&nbsp;'"),
        ({"lembrte.txt.j2": "Olá"}, "lembrte.txt.j2: ", "no kind's template, and none includes it; did you mean lem"),
        ({"u1/Atraso.txt.j2": "Olá"}, "u1/Atraso.txt.j2: ", "did you mean atraso.txt.j2?"),
        ({"xyz.txt.j2": "Olá"}, "xyz.txt.j2: ", "the kinds are lembrete, vencimento, atraso, pagamento, cobranca"),
        ({"lembrete.j2": "Olá"}, "lembrete.j2: ", "is not read; a template is called lembrete.txt.j2"),
        ({"u1/lembrete.txt": "Olá"}, "u1/lembrete.txt: ", "is not read; a template is called lembrete.txt.j2"),
        ({"lembrete.txt.j2": "{{ 'x' * 5000 }}"}, "lembrete.txt.j2: ", "has 5000 characters, not 1 to 4096"),
        ({"lembrete.txt.j2": "{# nada #}"}, "lembrete.txt.j2: ", "has 0 characters, not 1 to 4096"),
        ({"u1/parte.txt.j2": "{{ 1 // 0 }}", "lembrete.txt.j2": "{% include 'parte.txt.j2' ignore missing %}."},
         "u1/parte.txt.j2:1: ", "by zero"),
    ],
)  # fmt: skip
def test_each_mistake_in_a_folder_is_named_with_its_line(folder, files, place, words):
    path = folder(files)
    with pytest.raises(BrokenTemplates) as caught:
        Renderer(path)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}/{place}")
    assert words in problem


def test_all_mistakes_in_a_folder_are_reported_at_once(folder):
    path = folder({"lembrete.txt.j2": "{{ nme }}\n{valor}", "u1/atraso.txt.j2": "{% if %}", "u2/atraso.txt.j2": "Bom."})
    with pytest.raises(BrokenTemplates) as caught:
        Renderer(path)
    assert [problem.removeprefix(f"{path}/").partition(": ")[0] for problem in caught.value.problems] == [
        "lembrete.txt.j2:1", "lembrete.txt.j2:2", "u1/atraso.txt.j2:1",
    ]  # fmt: skip


def test_a_part_may_be_in_a_folder_of_parts_or_named_when_it_is_rendered(folder):
    parts = {"partes/fim.txt.j2": "Fim.", "outra.txt.j2": "Outra."}
    renderer = Renderer(
        folder({"lembrete.txt.j2": "{% include 'partes/fim.txt.j2' %} {% include 'outra.txt.j2' %}", **parts})
    )
    assert text(renderer, Kind.REMINDER) == "Fim. Outra."
    assert (
        text(Renderer(folder({"lembrete.txt.j2": "{% include nome and 'outra.txt.j2' %}"})), Kind.REMINDER) == "Outra."
    )


@pytest.mark.parametrize("source", ["{% include '../fora.txt.j2' %}", "{% include '/etc/hostname' %}"])
def test_a_template_reads_no_file_outside_of_the_folder(folder, source):
    path = folder({"textos/lembrete.txt.j2": source, "fora.txt.j2": "De fora."}) / "textos"
    with pytest.raises(BrokenTemplates, match=r"lembrete\.txt\.j2:1: "):
        Renderer(path)


def test_values_are_data_in_custom_templates_too(folder):
    renderer = Renderer(folder({"vencimento.txt.j2": "{{ nome }}"}))
    given = sample(Kind.DUE, TODAY).model_copy(update={"name": "{{ 7 * 7 }}{% raise %}"})
    assert renderer.render(given, today=TODAY) == "{{ 7 7 }}{% raise %}"


# -- the command line


def test_check_reports_the_source_of_each_text(ifinu, folder, monkeypatch):
    path = folder({"lembrete.txt.j2": "Olá, {{ nome }}!", "u1/atraso.txt.j2": "Olá!"})
    monkeypatch.setenv("IFINU_TEMPLATES", str(path))
    found = ifinu("template", "check", "--json").json
    files = {(one["tenant"], one["kind"]): one["file"] for one in found["templates"]}
    assert files == {
        (None, "lembrete"): f"{path}/lembrete.txt.j2",
        (None, "vencimento"): "ifinu",
        (None, "atraso"): "ifinu",
        (None, "pagamento"): "ifinu",
        (None, "cobranca_criada"): "ifinu",
        ("u1", "lembrete"): f"{path}/lembrete.txt.j2",
        ("u1", "vencimento"): "ifinu",
        ("u1", "atraso"): f"{path}/u1/atraso.txt.j2",
        ("u1", "pagamento"): "ifinu",
        ("u1", "cobranca_criada"): "ifinu",
    }
    assert (found["directory"], found["problems"]) == (str(path), [])
    ended = ifinu("template", "check")
    assert ended.code == 0
    assert "u1/atraso.txt.j2" in ended.out


def test_check_of_broken_templates_ends_with_1_and_of_no_folder_with_2(ifinu, folder):
    path = folder({"lembrete.txt.j2": "{{ nme }}", "atraso.txt.j2": "{valor}"})
    ended = ifinu("template", "check", "--templates", str(path))
    assert ended.code == 1
    assert f"{path}/lembrete.txt.j2:1: no value is called nme" in ended.out
    assert f"{path}/atraso.txt.j2:1: has '{{valor}}'" in ended.out
    assert len(ifinu("template", "check", "--templates", str(path), "--json").json["problems"]) == 2
    ended = ifinu("template", "check", "--templates", str(path / "nenhum"))
    assert (ended.code, ended.out) == (2, "")
    assert "no such directory of templates" in ended.err


def test_preview_shows_the_tenants_text(ifinu, folder, monkeypatch):
    path = folder({"u1/lembrete.txt.j2": "De u1 para {{ nome }}. {{ link_pagamento }}"})
    monkeypatch.setenv("IFINU_TEMPLATES", str(path))
    monkeypatch.setenv("IFINU_REFERENCE", "false")
    shown = ifinu("template", "preview", "lembrete", "--tenant", "u1", "--json").json
    assert shown == {
        "kind": "lembrete",
        "tenant": "u1",
        "file": f"{path}/u1/lembrete.txt.j2",
        "text": "De u1 para Maria. https://example.com/pagar",
    }
    assert "vence em *3 dias*" in ifinu("template", "preview", "lembrete").out
    assert "há *10 dias*" in ifinu("template", "preview", "atraso").out
    ended = ifinu("template", "preview", "lembrete", "--tenant", "u1", "--bare")
    assert (ended.code, ended.out) == (2, "")
    assert "link_pagamento: is missing, and lembrete.txt.j2 needs it" in ended.err


def test_a_dry_run_shows_the_custom_text(ifinu, folder, monkeypatch):
    monkeypatch.setenv("IFINU_TEMPLATES", str(folder({"u1/pagamento.txt.j2": "Recebido, {{ nome }}!"})))
    given = (
        "--id",
        "a",
        "--kind",
        "pagamento",
        "--phone",
        "77998616740",
        "--name",
        "Ana",
        "--amount",
        "1",
        "--dry-run",
    )
    assert ifinu("send", *given, "--tenant", "u1", "--json").json["text"].startswith("Recebido, Ana!\n")
    assert "Recebemos seu pagamento" in ifinu("send", *given).out


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("bare", [False, True])
def test_a_sample_is_a_notification_that_can_be_sent(kind, bare):
    made = sample(kind, TODAY, bare=bare)
    assert Notification.model_validate(made.model_dump()) == made


def test_a_template_that_needs_a_field_the_message_lacks_is_named(folder):
    renderer = Renderer(folder({"lembrete.txt.j2": "{{ descricao }}"}))
    with pytest.raises(InvalidNotification, match=r"descricao: is missing, and lembrete\.txt\.j2 needs it"):
        text(renderer, Kind.REMINDER)
