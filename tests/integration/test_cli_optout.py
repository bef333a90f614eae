"""`ifinu optout` against a real Valkey."""

import csv
import io
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command_line import Shell

from ifinu.broker import events
from ifinu.broker.keys import EVENTS
from ifinu.broker.optouts import ALL, OptOuts
from ifinu.broker.pseudonyms import Pseudonyms
from ifinu.broker.replies import Replies, Reply

KEY = "a key of the tests of 32 letters."
PHONE, SPELLING, MASKED = "+5577998616740", "(77) 99861-6740", "+55 77 9****-6740"
HASH = Pseudonyms(KEY.encode()).of(PHONE)


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_PHONE_KEY", KEY)
    return Shell(capsys, monkeypatch)


@pytest.fixture
def optouts(client):
    return OptOuts(client, Pseudonyms(KEY.encode()))


def everybody(optouts):
    return sorted((optout.tenant or "", optout.phone, optout.source) for optout in optouts.all(ALL))


# -- add and remove


def test_add(ifinu, client, optouts):
    ended = ifinu("optout", "add", SPELLING, "--tenant", "u1")
    assert (ended.code, ended.out) == (0, f"{MASKED} is now opted out of messages of tenant u1.\n")
    assert everybody(optouts) == [("u1", MASKED, "cli")]
    again = ifinu("optout", "add", "77998616740", "--tenant", "u1")
    assert (again.code, again.out) == (0, f"{MASKED} was already opted out of messages of tenant u1.\n")
    ended = ifinu("optout", "add", SPELLING, "--json")
    assert ended.json == {"tenant": None, "phone": MASKED, "added": True}
    changes = [events.decode(fields).data for _, fields in client.xrange(EVENTS)]
    assert [(one["tenant"], one["hash"], one["on"]) for one in changes] == [("u1", HASH, True), (None, HASH, True)]


def test_remove(ifinu, optouts):
    optouts.add("u1", PHONE, source="whatsapp")
    other = ifinu("optout", "remove", SPELLING, "--yes")
    assert (other.code, other.out) == (1, f"{MASKED} had not opted out of messages without a tenant.\n")
    assert everybody(optouts) == [("u1", MASKED, "whatsapp")]
    ended = ifinu("optout", "remove", SPELLING, "--tenant", "u1", "--yes")
    assert (ended.code, ended.out) == (0, f"{MASKED} gets messages of tenant u1 again.\n")
    assert everybody(optouts) == []
    again = ifinu("optout", "remove", SPELLING, "--tenant", "u1", "--yes", "--json")
    assert (again.code, again.json) == (1, {"tenant": "u1", "phone": MASKED, "removed": False})


def test_a_removal_is_confirmed(ifinu, optouts):
    optouts.add(None, PHONE, source="whatsapp")
    ended = ifinu("optout", "remove", SPELLING)
    assert (ended.code, ended.out) == (2, "")
    assert "add --yes" in ended.err
    assert everybody(optouts) == [("", MASKED, "whatsapp")]


@pytest.mark.parametrize("command", [("add",), ("remove", "--yes")])
@pytest.mark.parametrize(
    ("number", "tenant", "reason"),
    [
        ("99861-6740", "u1", "NUMBER: has no area code"),
        ("0800 123 4567", "u1", "NUMBER: is a service number"),
        (SPELLING, "u\x001", "--tenant has control characters"),
    ],
)
def test_a_wrong_argument_ends_with_2(ifinu, optouts, command, number, tenant, reason):
    ended = ifinu("optout", *command, number, "--tenant", tenant)
    assert (ended.code, ended.out) == (2, "")
    assert reason in ended.err
    assert number not in ended.err
    assert everybody(optouts) == []


# -- list


def test_list(ifinu, client, optouts):
    assert ifinu("optout", "list").out == "There are no opt-outs.\n"
    assert ifinu("optout", "list", "--json").json == {"total": 0, "optouts": []}
    for number in range(30):
        optouts.add("u1", f"+55779986167{number}", source="cli")
    optouts.add(None, PHONE, source="whatsapp")
    found = ifinu("optout", "list", "--json").json
    assert (found["total"], len(found["optouts"])) == (31, 20)
    table = ifinu("optout", "list", "--limit", "2", "--tenant", "u1").out
    assert table.splitlines()[-1] == "2 of 30"
    assert len(table.splitlines()) == 4
    (one,) = ifinu("optout", "list", "--tenant", "", "--json").json["optouts"]
    assert {**one, "at": ""} == {"tenant": None, "hash": HASH, "phone": MASKED, "source": "whatsapp", "at": ""}
    assert MASKED in ifinu("optout", "list", "--tenant", "").out


def test_the_latest_opt_outs_are_listed_first(ifinu):
    rows = [{"hash": f"{n:032x}", "source": "old", "at": f"2026-01-0{n}T00:00:00Z"} for n in (2, 3, 1)]
    exported(ifinu, rows)
    listed = ifinu("optout", "list", "--json").json["optouts"]
    assert [one["at"][:10] for one in listed] == ["2026-01-03", "2026-01-02", "2026-01-01"]


# -- import


def exported(ifinu, rows, **fields):
    """The content of a file written by `export --json`."""
    mark = Pseudonyms(KEY.encode()).of("")[:8]
    lines = [json.dumps({"key": mark, **row, **fields}) for row in rows]
    return ifinu("optout", "import", "-", "--json", stdin="\n".join(lines).encode()).json


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", f"telefone;usuario_id\n{SPELLING};u2\n77 98888-7777;\n"),
        ("a.csv", f"Tenant,Phone,note\nu2,{SPELLING},stop!\n,77988887777,\n"),
        ("a.jsonl", f'{{"telefone":"{SPELLING}","usuario_id":"u2"}}\n{{"phone":"77988887777","tenant":null}}\n'),
        ("a.jsonl", f'{{"telefone":"{SPELLING}","usuario_id":"u2"}}\n\n{{"phone":77988887777}}'),
    ],
)
def test_imported_phones_get_the_given_tenant_if_the_file_has_none(ifinu, optouts, tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    ended = ifinu("optout", "import", str(file), "--tenant", "u1")
    assert (ended.code, ended.out) == (0, "2 added, 0 known already, 0 refused\n")
    assert everybody(optouts) == [("u1", "+55 77 9****-7777", "import"), ("u2", MASKED, "import")]
    again = ifinu("optout", "import", str(file), "--tenant", "u1", "--json")
    assert (again.json["added"], again.json["known"], again.json["refused"]) == (0, 2, [])


def test_an_import_without_a_tenant_is_for_messages_without_one(ifinu, optouts):
    ended = ifinu("optout", "import", "-", "--format", "csv", stdin=f"telefone\n{SPELLING}\n".encode())
    assert ended.code == 0
    assert everybody(optouts) == [("", MASKED, "import")]


def test_a_wrong_line_is_reported_with_its_number_and_does_not_stop_the_rest(ifinu, optouts):
    lines = [
        b'{"telefone":"123"}',
        b"{bad",
        b'{"usuario_id":"u1"}',
        b'{"phone":["77998616740"]}',
        b'{"phone":"77998616740","tenant":"\\ud800"}',
        b'{"phone":true}',
        b'{"phone":"77998616740"}',
    ]
    ended = ifinu("optout", "import", "-", "--json", stdin=b"\n".join(lines))
    assert (ended.code, ended.json["added"], ended.json["known"]) == (1, 1, 0)
    assert [(one["line"], one["field"]) for one in ended.json["refused"]] == [
        (1, "telefone"),
        (2, ""),
        (3, ""),
        (4, "phone"),
        (5, "tenant"),
        (6, "phone"),
    ]
    assert everybody(optouts) == [("", MASKED, "import")]
    ended = ifinu("optout", "import", "-", stdin=b"\n".join([*lines, *[b"{}"] * 6]))
    first, *rest = ended.out.splitlines()
    assert (ended.code, first, len(rest)) == (1, "0 added, 1 known already, 12 refused", 11)
    assert rest[0].startswith("  line 1: telefone: has 3 digits")
    assert rest[-1] == "  … and 2 more; --json lists them"


def test_one_wrong_row_is_one_refused_row(ifinu, optouts):
    file = Path(__file__).parents[1] / "cases" / "optouts-carriage-return.csv"
    ended = ifinu("optout", "import", str(file))
    assert ended.code == 1
    assert ended.out.startswith("2 added, 0 known already, 1 refused\n  line 3: has a carriage return inside a cell")
    assert everybody(optouts) == [("u1", "+55 11 9****-0040", "import"), ("u1", "+55 11 9****-0042", "import")]


def test_columns_are_mapped_and_keys_resembling_a_tenant_are_refused(ifinu, optouts):
    content = b"Cliente;DDD;Celular;Empresa\nAna;77;99861-6740;u1\n"
    ended = ifinu("optout", "import", "-", "--map", "Celular=telefone", "--map", "Empresa=tenant", stdin=content)
    assert (ended.code, ended.out) == (0, "1 added, 0 known already, 0 refused\n")
    assert everybody(optouts) == [("u1", MASKED, "import")]
    ended = ifinu("optout", "import", "-", stdin=b'[{"telefone":"77998616740","usuarioId":"u1"}]')
    assert ended.out.endswith("line 1: usuarioId: unknown field; did you mean usuario_id?\n")


def test_an_interrupted_import_says_how_far_it_got(ifinu, optouts, monkeypatch):
    add, added = OptOuts.add, []

    def interrupted(self, *arguments, **named):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(arguments)
        return add(self, *arguments, **named)

    monkeypatch.setattr(OptOuts, "add", interrupted)
    content = b"telefone\n77998616740\n11987654321\n11987654322\n"
    ended = ifinu("optout", "import", "-", "--tenant", "u 1", stdin=content)
    assert ended.code == 130
    go_on = "ifinu optout import - --tenant 'u 1' --from-line 4"
    assert ended.err == f"2 added, 0 known already, 0 refused. Continue with: {go_on}\n"
    monkeypatch.setattr(OptOuts, "add", add)
    assert ifinu("optout", "import", "-", "--from-line", "4", stdin=content).out.startswith("1 added")


@pytest.mark.parametrize(
    ("stdin", "arguments", "reason"),
    [
        (b"numero\n77998616740\n", ("-", "--format", "csv"), "missing: hash or phone or telefone"),
        (b"telefone;usuario\n77998616740;u1\n", ("-",), "the column 'usuario' is not used: if it holds tenants"),
        (b"", ("nowhere.csv",), "nowhere.csv: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_ends_with_2(ifinu, stdin, arguments, reason):
    ended = ifinu("optout", "import", *arguments, stdin=stdin)
    assert (ended.code, ended.out) == (2, "")
    assert reason in ended.err


# -- export and back


@pytest.fixture
def three(optouts):
    optouts.add("u1", PHONE, source="whatsapp")
    optouts.add("a, b", PHONE, source="cli")
    optouts.add(None, "+5511987654321", source="import")
    return set(optouts.all(ALL))


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_an_export_can_be_imported_after_a_loss(ifinu, client, optouts, three, tmp_path, form):
    file = tmp_path / ("optouts.jsonl" if form else "optouts.csv")
    ended = ifinu("optout", "export", str(file), *form)
    assert (ended.code, ended.out, ended.err) == (0, "", "3 opt-outs written\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "8616740" not in file.read_text()
    client.flushall()
    # --tenant applies to phones only: for each hash, the file names the tenant.
    assert ifinu("optout", "import", str(file), "--tenant", "u9").out == "3 added, 0 known already, 0 refused\n"
    assert set(optouts.all(ALL)) == three


def test_export_to_stdout_of_one_tenant(ifinu, three):
    (row,) = csv.DictReader(io.StringIO(ifinu("optout", "export", "--tenant", "u1").out))
    assert list(row) == ["tenant", "hash", "phone", "source", "at", "key"]
    assert (row["tenant"], row["hash"], row["phone"], row["source"]) == ("u1", HASH, f"'{MASKED}", "whatsapp")
    (line,) = ifinu("optout", "export", "--tenant", "", "--json").out.splitlines()
    assert json.loads(line)["tenant"] is None


def test_an_export_overwrites_nothing(ifinu, three, tmp_path):
    file = tmp_path / "optouts.csv"
    file.write_text("of yesterday")
    ended = ifinu("optout", "export", str(file))
    assert (ended.code, ended.err) == (2, f"error: {file}: File exists\n")
    assert file.read_text() == "of yesterday"


def test_hashes_of_another_key_are_refused(ifinu, three, tmp_path, monkeypatch):
    content = ifinu("optout", "export", "--json").out.encode()
    monkeypatch.setenv("IFINU_PHONE_KEY", "another key, which is long enough")
    ended = ifinu("optout", "import", "-", "--json", stdin=content)
    assert (ended.code, ended.json["added"]) == (1, 0)
    assert {(one["field"], one["reason"][:30]) for one in ended.json["refused"]} == {
        ("key", "is of another IFINU_PHONE_KEY,")
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [("hash", "abc"), ("hash", "z" * 32), ("key", ""), ("at", ""), ("at", "yesterday"), ("at", "2026-01-01T00:00:00")],
)
def test_a_restored_line_that_is_wrong_is_refused(ifinu, optouts, field, value):
    good = {"tenant": "u1", "hash": HASH, "phone": MASKED, "source": "cli", "at": "2026-01-01T00:00:00+00:00"}
    ended = exported(ifinu, [good], **{field: value})
    assert [(one["line"], one["field"]) for one in ended["refused"]] == [(1, field)]
    assert everybody(optouts) == []
    assert exported(ifinu, [good])["added"] == 1


def test_a_phone_beside_a_hash_is_masked(ifinu, optouts):
    exported(ifinu, [{"hash": HASH, "phone": SPELLING, "at": "2026-01-01T00:00:00Z"}])
    assert everybody(optouts) == [("", MASKED, "")]


def test_without_a_configured_key_one_is_kept_in_redis(ifinu, client, monkeypatch):
    monkeypatch.delenv("IFINU_PHONE_KEY")
    assert ifinu("optout", "add", SPELLING, "--json").json["added"]
    assert not ifinu("optout", "add", SPELLING, "--json").json["added"]
    assert client.exists("ifinu:chave:telefone")


# -- answers that a person has to look into


def asked(client, **fields):
    """An unresolved reply, as the webhook stores it."""
    given = {"id": "a1", "wish": "stop", "instance": "wa1", "at": datetime(2026, 11, 24, 15, tzinfo=UTC)} | fields
    answer = Reply(**given)
    Replies(client).take(answer, stays=True)
    return answer


def test_unresolved_replies_are_listed_with_the_data_to_settle_them(ifinu, client):
    assert ifinu("optout", "unresolved").out == "No answer needs a decision.\n"
    asked(client, quoted="3EB0AA")
    asked(client, id="a2", wish="maybe", hash=HASH, phone=MASKED, text="cancelar")
    table = ifinu("optout", "unresolved").out
    for shown in ("a1", "stop", "hidden", "3EB0AA", "12:00", "a2", "maybe", MASKED, "cancelar", "2 open"):
        assert shown in table
    found = ifinu("optout", "unresolved", "--json").json
    assert (found["total"], [one["id"] for one in found["answers"]]) == (2, ["a1", "a2"])


@pytest.mark.parametrize(
    ("tenant", "becomes", "whose"),
    [
        ((), "*", "of all tenants"),
        (("--tenant", "u1"), "u1", "of tenant u1"),
        (("--tenant", ""), "", "without a tenant"),
    ],
)
def test_a_hidden_phone_is_settled_by_its_number(ifinu, client, optouts, tenant, becomes, whose):
    asked(client)
    refused = ifinu("optout", "resolve", "a1", "--stop")
    assert (refused.code, "--phone NUMBER" in refused.err) == (2, True)
    ended = ifinu("optout", "resolve", "a1", "--stop", "--phone", SPELLING, *tenant)
    assert (ended.code, ended.out) == (0, f"{MASKED} is now opted out of messages {whose}.\n")
    assert everybody(optouts) == [(becomes, MASKED, "cli")]
    assert ifinu("optout", "resolve", "a1", "--stop").code == 2


def test_a_wrong_recipient_stays_opted_out_or_gets_messages_again(ifinu, client, optouts):
    wrong = {"wish": "wrong_person", "hash": HASH, "phone": MASKED, "tenants": ("u1",), "known": True}
    asked(client, **wrong)
    assert everybody(optouts) == [("u1", MASKED, "wrong_person")]
    assert ifinu("optout", "resolve", "a1", "--dismiss").out == "a1 is dismissed.\n"
    assert everybody(optouts) == []
    asked(client, **wrong)
    assert ifinu("optout", "resolve", "a1", "--stop", "--json").json["tenants"] == ["u1"]
    assert (everybody(optouts), Replies(client).all()) == ([("u1", MASKED, "wrong_person")], [])


@pytest.mark.parametrize("options", [(), ("--stop", "--dismiss")])
def test_the_decision_must_be_given(ifinu, options):
    ended = ifinu("optout", "resolve", "a1", *options)
    assert (ended.code, "either --stop or --dismiss" in ended.err) == (2, True)


def test_an_opt_out_from_all_tenants_is_shown_as_such(ifinu, optouts):
    ifinu("optout", "add", SPELLING, "--tenant", "*")
    optouts.add("u1", PHONE, source="cli")
    assert "(all)" in ifinu("optout", "list").out
    ended = ifinu("optout", "remove", SPELLING, "--tenant", "u1", "--yes")
    assert (ended.code, "--tenant '*'" in ended.err) == (0, True)
    removed = ifinu("optout", "remove", SPELLING, "--tenant", "*", "--yes")
    assert removed.out.endswith("messages of all tenants again.\n")
    assert everybody(optouts) == []
