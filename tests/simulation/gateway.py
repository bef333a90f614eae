"""An Evolution API that remembers what it really sent, and the transport to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from ifinu.gateway import http_transport
from ifinu.gateway.http_transport import AnswerLost, RequestNotDelivered, Response
from ifinu.reference import reference_in
from simulation.world import Task, World, here

READ_TIMEOUT_S = 4.0
SLOWEST_S = 3.0  # from the request to its send; well within the grace
_SEND = "/message/sendText"


class Sent(NamedTuple):
    """
    A message that really went to WhatsApp.

    Attributes:
        at: When.
        number: Digits of the recipient.
        text: What the person reads.
        key_id: The gateway's id of it.
        by: Name of the worker that asked for it.
        written_at: When the worker wrote the request.
        stored: Whether the gateway has its row.
        instance: The instance that sent it.
        tag: Delivery tag of the message for which the worker asked.
    """

    at: float
    number: str
    text: str
    key_id: str
    by: str
    written_at: float
    stored: bool
    instance: str
    tag: str


class Gateway:
    """
    The gateway of a world, with one process, and with any instance that is asked for.

    Attributes:
        away_until: End of an outage.
        sent: All that it really sent.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.away_until = 0.0
        self._closed_until: dict[str, float] = {}
        self.sent: list[Sent] = []
        self._count = 0

    def close(self, instance: str, for_s: float) -> None:
        """Let an instance lose WhatsApp for a while."""
        self._closed_until[instance] = max(self._closed_until.get(instance, 0.0), self.world.now + for_s)

    def is_closed(self, instance: str) -> bool:
        return self.world.now < self._closed_until.get(instance, 0.0)

    def handle(self, method: str, path: str, body: bytes, written_at: float, reply: Callable[[Response], None]) -> None:
        """Answer one request, whose sender may be dead by now."""
        route, _, last = path.strip("/").rpartition("/")
        instance = unquote(last)
        match route:
            case "message/sendText":
                self._send({**json.loads(body), "instance": instance}, written_at, reply)
            case "chat/findMessages":
                reply(self._find(json.loads(body), instance))
            case "instance/connectionState":
                state = "close" if self.is_closed(instance) else "open"
                reply(_json(200, {"instance": {"instanceName": instance, "state": state}}))
            case _:
                reply(_json(404, {"status": 404, "error": "Not Found", "response": {"message": [f"Cannot {method}"]}}))

    def _send(self, body: dict[str, Any], written_at: float, reply: Callable[[Response], None]) -> None:
        faults, rng = self.world.faults, self.world.rng
        if self.is_closed(body["instance"]):
            self.world.promises.refused(body["instance"])
            reply(_error(400 if rng.random() < 0.5 else 500, "Error: Connection Closed"))
        elif faults.happens("refused"):
            reply(_error(400, [{"jid": "x", "exists": False, "number": body["number"]}]))
        elif faults.happens("throttled"):
            reply(_error(429, "rate-overlimit"))
        elif faults.happens("failed"):
            reply(_error(*rng.choice(((500, "Timed Out"), (500, "some error"), (503, "no"), (500, "prisma: P1001")))))
        elif faults.happens("failed_unknown"):  # such an answer proves nothing
            if rng.random() < 0.5:
                self._to_whatsapp(body, written_at)
            reply(_error(*rng.choice(((400, "Error: Timed Out"), (504, "x"), (502, "x"), (400, "TypeError: x")))))
        else:
            wait_s = rng.uniform(0, SLOWEST_S) if faults.happens("slow_gateway") else rng.uniform(0.005, 0.06)
            self.world.after(wait_s, lambda: self._sent(body, written_at, reply))

    def _sent(self, body: dict[str, Any], written_at: float, reply: Callable[[Response], None]) -> None:
        if self.world.faults.happens("unstored"):  # WhatsApp has it, and the gateway's database refuses its row
            self._to_whatsapp(body, written_at, stored=False)
            reply(_error(400, "PrismaClientUnknownRequestError: x"))
            return
        sent = self._to_whatsapp(body, written_at)
        key = {"remoteJid": f"{body['number']}@s.whatsapp.net", "fromMe": True, "id": sent.key_id}
        reply(_json(201, {"key": key, "status": "PENDING", "message": {"conversation": body["text"]}}))

    def _to_whatsapp(self, body: dict[str, Any], written_at: float, *, stored: bool = True) -> Sent:
        self._count += 1
        key_id = f"3EB0{self._count:04X}"
        sent = Sent(
            self.world.now, body["number"], body["text"], key_id, body["by"], written_at, stored, body["instance"],
            body["tag"],
        )  # fmt: skip
        self.sent.append(sent)
        self.world.trace(
            "SENT", reference=reference_in(sent.text), by=sent.by, key=key_id, instance=sent.instance,
            unstored=not stored or None,
        )  # fmt: skip
        self.world.promises.sent(sent)
        return sent

    def _find(self, body: dict[str, Any], instance: str) -> Response:
        if self.world.faults.happens("unfound"):
            return _error(500, "some error")
        wanted = body["where"]["key"].get("remoteJid")
        records = [
            {
                "key": {"id": sent.key_id, "remoteJid": f"{sent.number}@s.whatsapp.net", "fromMe": True},
                "message": {"conversation": sent.text},
                "messageTimestamp": int(sent.at),
            }
            for sent in reversed(self.sent)
            if sent.stored and sent.instance == instance and f"{sent.number}@s.whatsapp.net" == wanted
        ]
        page = {"total": len(records), "pages": 1, "currentPage": 1, "records": records}
        return _json(200, {"messages": page})


class Transport:
    """`HttpTransport` without sockets: the same signature, errors and order of `before` and the request."""

    def __init__(self, url: str, **_: Any) -> None:
        http_transport.endpoint(url)
        self.url = url

    def close(self) -> None:
        pass

    def exchange(
        self, method: str, path: str, body: bytes = b"", *, before: Callable[[], None] | None = None
    ) -> Response:
        world = here()
        faults, gateway, process = world.faults, world.gateway, world.process
        connect_s = faults.latency_s()
        faults.strike(connect_s, often=4)
        world.sleep(connect_s)
        if world.now < gateway.away_until:
            raise RequestNotDelivered("ConnectionRefusedError: refused") from ConnectionRefusedError()
        if before is not None:
            process.confirming += 1
            try:
                before()
            finally:
                process.confirming -= 1
        # Nothing waits from here to the first byte of the request.
        if faults.happens("not_delivered"):
            world.trace("NOT DELIVERED", path=path)
            raise RequestNotDelivered("BrokenPipeError: broken pipe") from BrokenPipeError()
        if path.startswith(_SEND):
            world.promises.posted(process)
            tag = world.promises.requested(process, json.loads(body)["text"], unquote(path.rpartition("/")[2]))
            body = json.dumps({**json.loads(body), "by": process.name, "tag": tag}).encode()
        return self._answer(method, path, body)

    def _answer(self, method: str, path: str, body: bytes) -> Response:
        world = here()
        faults, gateway, task = world.faults, world.gateway, world.task()
        answers: list[Response | None] = []

        def arrive(answer: Response | None) -> None:
            answers.append(answer)
            if isinstance(task, Task):
                world.wake(task)

        def reply(answer: Response) -> None:
            lost = faults.happens("answer_lost")
            world.trace("answers", status=answer.status, lost=lost or None)
            if lost and world.rng.random() < 0.5:
                return  # the worker waits in vain
            world.after(faults.latency_s(), lambda: arrive(None if lost else answer))

        written_at = world.now
        if path.startswith(_SEND) and faults.happens("send_lost"):
            world.trace("SEND LOST")
        else:
            world.after(faults.latency_s(), lambda: gateway.handle(method, path, body, written_at, reply))
        faults.strike(0.1, often=4)
        if not world.wait(READ_TIMEOUT_S) and not answers:
            raise AnswerLost("TimeoutError: timed out") from TimeoutError("timed out")
        answer = answers[0]
        if answer is None:
            raise AnswerLost("ConnectionResetError: reset") from ConnectionResetError()
        return answer


def _json(status: int, body: Any) -> Response:
    return Response(status, json.dumps(body).encode())


def _error(status: int, message: Any) -> Response:
    said = message if isinstance(message, list) else [message]
    return _json(status, {"status": status, "error": "Error", "response": {"message": said}})
