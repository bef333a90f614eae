import pytest
from command_line import Shell

from ifinu.reference import reference_of

GIVEN = ("--id", "inv-42", "--kind", "lembrete", "--phone", "(77) 99861-6740")
FULL = (*GIVEN, "--name", "Maria", "--amount", "1234.50", "--due-date", "2026-12-01")


@pytest.fixture
def ifinu(capsys, monkeypatch):
    # Nothing here may reach a server.
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://localhost:1")
    return Shell(capsys, monkeypatch)


def test_a_dry_run_prints_the_text_and_the_phone_masked(ifinu):
    ended = ifinu("send", *FULL, "--dry-run")
    assert ended.code == 0
    assert "Maria" in ended.out
    assert "R$ 1.234,50" in ended.out.replace("\xa0", " ")
    assert "+55 77 9****-6740" in ended.out
    assert "99861" not in ended.out


def test_json_of_a_dry_run(ifinu):
    ended = ifinu("send", *GIVEN, "--text", "Bom [dia]", "--priority", "urgente", "--dry-run", "--json")
    assert ended.json == {
        "id": "inv-42",
        "queue": "ifinu:fila:urgente",
        "due": None,
        "warnings": [],
        "phone": "+55 77 9****-6740",
        "text": f"Bom [dia]\n\n_Ref. {reference_of('inv-42')}_",
    }


def test_a_dry_run_shows_no_reference_where_there_is_none(ifinu, monkeypatch):
    monkeypatch.setenv("IFINU_REFERENCE", "false")
    assert ifinu("send", *GIVEN, "--text", "Bom dia", "--dry-run", "--json").json["text"] == "Bom dia"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GIVEN, "name: is required for lembrete"),
        ((*FULL, "--phone", "123"), "phone: has 3 digits"),
        ((*FULL, "--in", "1m", "--at", "2026-12-01T09:00:00-03:00"), "not both"),
        ((*FULL, "--at", "tomorrow"), "--at must be an ISO time"),
        ((*FULL, "--at", "2026-12-01T09:00:00"), "--at needs a UTC offset"),
    ],
)
def test_a_mistake_is_reported_and_ends_with_2(ifinu, arguments, message):
    ended = ifinu("send", *arguments, "--dry-run")
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


@pytest.mark.parametrize("wait", [("--in", "2h"), ("--at", "2099-12-01T09:00:00-03:00")])
def test_the_due_time_of_a_delayed_send_is_shown(ifinu, wait):
    ended = ifinu("send", *FULL, *wait, "--dry-run", "--json")
    assert ended.json["due"].startswith("20")


@pytest.mark.parametrize(
    ("kind", "due", "warning"),
    [
        ("lembrete", "2020-01-06", "2020-01-06 is past, and lembrete speaks of what is due soon"),
        ("vencimento", "2020-01-06", "it is not sent any more"),
        ("vencimento", "2099-01-06", "2099-01-06 is not the day on which it is sent"),
    ],
)
def test_a_kind_that_does_not_fit_its_due_date_gets_a_warning(ifinu, kind, due, warning):
    given = (*FULL, "--kind", kind, "--due-date", due, "--dry-run")
    ended = ifinu("send", *given)
    assert ended.code == 0
    assert "warning: " in ended.err
    assert warning in ended.err
    (found,) = ifinu("send", *given, "--json").json["warnings"]
    assert warning in found


def test_an_overdue_notice_is_compared_with_the_day_on_which_it_is_sent(ifinu):
    overdue = (*FULL, "--kind", "atraso", "--due-date", "2099-01-05")  # a Monday
    ended = ifinu("send", *overdue)
    assert (ended.code, ended.out) == (2, "")
    assert "due_date: 2099-01-05 is yet to come, and atraso says that the charge is late" in ended.err
    at = ("--at", "2099-01-05T09:00:00-03:00", "--dry-run")
    assert "it waits until 2099-01-06" in ifinu("send", *overdue, *at).err
    later = ifinu("send", *overdue, "--at", "2099-01-07T09:00:00-03:00", "--dry-run", "--json").json
    assert later["warnings"] == []
    assert "há *2 dias*" in later["text"]
