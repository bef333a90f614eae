"""
The messages that the demo pushes, and their expected outcomes.

Each case has separate telephone numbers, so that the simulator's ledger shows its outcome. The last four digits of a
number decide what the simulator does: 0001 is not on WhatsApp, 0002 fails twice, 0003 always fails; 0004 is sent and
0020 is not, and the answers of both are lost; 0024 answers SAIR.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

SANDBOX_NUMBER = "+5511987654321"
COUNTDOWN_S = 4
LATER = "5511987651103"  # gets the message with the countdown
_PYTHON = "5511987651102"
_REPEATS = 3  # messages for each repeated id
_TRIES = 4  # the first and three retries


@dataclass(frozen=True)
class Case:
    """
    Messages of one sort, and their expected outcome.

    Attributes:
        pushed: Description of the messages.
        follows: Description of the expected outcome.
        messages: Bodies to LPUSH.
        sends: Expected number of messages that WhatsApp gets, by phone number (digits).
        dead: Expected number of dead letters, by (reason, tries).
        failures: Expected number of failed tries, by the simulator's outcome.
        size: Number of messages, if they are not pushed by LPUSH.
    """

    pushed: str
    follows: str
    messages: tuple[bytes, ...] = ()
    sends: Mapping[str, int] = field(default_factory=dict)
    dead: Mapping[tuple[str, int], int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    size: int = 0

    @property
    def count(self) -> int:
        return len(self.messages) or self.size


def cases(load: int, today: date) -> list[Case]:
    """All cases of the demo."""
    due = today + timedelta(days=3)
    return [
        _load_test(load),
        _nested(due),
        Case(
            "send_notification.delay(…) from Python", "sent once", size=1, sends={_PYTHON: 1}
        ),
        Case(
            f"send_notification.enqueue(…, countdown={COUNTDOWN_S})",
            f"sent once, {COUNTDOWN_S} s later or more",
            size=1,
            sends={LATER: 1},
        ),
        _repeated(due),
        Case(
            "a number whose sends fail twice (500)",
            "sent once, by the second retry",
            (_flat("demo_twice", "11987650002", due),),
            sends={"5511987650002": 1},
            failures={"lookup_closed": 2},
        ),
        Case(
            "a number whose sends always fail (500)",
            f"dead letter after {_TRIES} tries",
            (_flat("demo_always", "11987650003", due),),
            dead={("connection_closed", _TRIES): 1},
            failures={"lookup_closed": _TRIES},
        ),
        Case(
            "sent, and the answer lost",
            "looked up, not sent again",
            (_flat("demo_lost", "11987650004", due),),
            sends={"5511987650004": 1},
            failures={"sent_then_reset": 1},
        ),
        Case(
            "not sent, and the answer lost (502)",
            "looked up, then sent once",
            (_flat("demo_502", "11987650020", due),),
            sends={"5511987650020": 1},
            failures={"bad_gateway": 1},
        ),
        Case(
            "a person who answers SAIR",
            "sent once, and a confirmation",
            (_flat("demo_stop", "11987650024", due),),
            sends={"5511987650024": 2},
            failures={"answers_stop": 2},
        ),
        Case(
            "a message that has expired",
            "not sent",
            (_flat("demo_expired", "11987651401", due, valido_ate=f"{today - timedelta(days=1)}T12:00:00-03:00"),),
            sends={"5511987651401": 0},
        ),
        Case(
            "a number that is not on WhatsApp",
            "dead letter at once",
            (_flat("demo_no_whatsapp", "11987650001", due),),
            dead={("number_not_on_whatsapp", 1): 1},
            failures={"not_on_whatsapp": 1},
        ),
        Case(
            "bad phone, no or unknown tipo_notificacao",
            "dead letters: invalid",
            (
                _flat("demo_bad_phone", "123", due),
                _flat("demo_no_kind", "11987651301", due, tipo_notificacao=None),
                _flat("demo_unknown_kind", "11987651302", due, tipo_notificacao="promocao"),
            ),
            dead={("invalid", 0): 3},
        ),
        Case("cut-off JSON", "dead letter: not_json", (b'{"id":"demo_cut","tipo',), dead={("not_json", 0): 1}),
        Case("bytes that are not UTF-8", "dead letter: not_utf8", (b'{"nome":"Jo\xe3o"}',), dead={("not_utf8", 0): 1}),
        Case("a JSON list", "dead letter: not_an_object", (b'["lembrete"]',), dead={("not_an_object", 0): 1}),
    ]  # fmt: skip


def python_producer(today: date) -> str:
    """The code of a Python producer, which runs as a separate process; it prints when the countdown began."""
    fields = (
        f"kind='lembrete', name='Maria', amount='1234.50', due_date='{today + timedelta(days=3)}', "
        "description='Mensalidade'"
    )
    return (
        "import time\n"
        "from ifinu import send_notification\n"
        f"send_notification.delay(id='demo_python', phone='+{_PYTHON}', {fields})\n"
        "print(time.time())\n"
        f"send_notification.enqueue(id='demo_later', phone='+{LATER}', countdown={COUNTDOWN_S}, {fields})\n"
    )


def sum_of(parts: list[Mapping[Any, int]]) -> Counter[Any]:
    total: Counter[Any] = Counter()
    for part in parts:
        total.update(part)
    return total


def _load_test(count: int) -> Case:
    messages = tuple(
        json.dumps({"id": f"test_{number}", "tipo_notificacao": "lembrete"}).encode() for number in range(1, count + 1)
    )
    sandbox = SANDBOX_NUMBER.removeprefix("+")
    return Case('load test, {"id":…,"tipo_notificacao":…}', "each sent once", messages, sends={sandbox: count})


def _nested(due: date) -> Case:
    body = {
        "id": "demo_nested",
        "tipo_notificacao": "vencimento",
        "cobranca": {
            "valor": 89.9,
            "descricao": "Academia",
            "data_vencimento": f"{due}T00:00:00Z",
            "cliente": {"nome": "João", "telefone": "(11) 98765-1101"},
        },
        "tentativas": 0,
        "criado_em": f"{due}T12:00:00Z",
    }
    return Case("the nested form of the Go service", "sent once", (_json(body),), sends={"5511987651101": 1})


def _repeated(due: date) -> Case:
    numbers = ("11987651201", "11987651202", "11987651203")
    messages = tuple(_flat(f"demo_repeated_{n[-1]}", n, due) for _ in range(_REPEATS) for n in numbers)
    return Case(
        f"{len(numbers)} ids, each pushed {_REPEATS} times",
        "each id sent once",
        messages,
        sends={f"55{number}": 1 for number in numbers},
    )


def _flat(notification_id: str, telefone: str, due: date, **changes: Any) -> bytes:
    body = {
        "id": notification_id,
        "tipo_notificacao": "lembrete",
        "telefone": telefone,
        "nome": "Maria",
        "valor": "1234.50",
        "vencimento": due.isoformat(),
        "descricao": "Mensalidade",
    }
    return _json(body | changes)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
