from __future__ import annotations

import contextlib
import html
import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest
import redis
import requests
from chromium import Browser
from flower.urls import handlers
from processes import API_KEY, Fleet, Queue, Simulated, fleet_of, raw, redis_server, start, wait_until
from quoting_app import QUOTED

from ifinu.broker import LOW, NORMAL, QUEUES, URGENT, Keys
from ifinu.embedded import Valkey, free_port
from ifinu.notification import Kind

LOGIN = "ops:a-password-of-the-tests"
REDIS_PASSWORD = "hush-of-redis"  # without a password, Redis accepts any
TASK = "ifinu.send_notification"

# Personal data that Flower must not show. The phone's last digits choose the simulator's answer.
NAME, TEXT = "Zulmira Canario", "fatura secreta da Zulmira"
PHONE = "7798765"
FORBIDDEN = ("zulmira", "canario", "secreta", "se cita", PHONE, "98765-", REDIS_PASSWORD, API_KEY, LOGIN[4:])


class Watched:
    """Flower as a process, and requests to it."""

    def __init__(self, log: Path, environment: dict[str, str], *command: str, prefix: str = "") -> None:
        self.log = log
        port = free_port()
        module, *arguments = *command, f"--port={port}"
        self.process = start(module, arguments, {**os.environ, **environment}, log)
        self.url = f"http://127.0.0.1:{port}{prefix}"
        self.login: tuple[str, str] | None = (LOGIN[:3], LOGIN[4:])
        try:
            wait_until(lambda: self._answers() or self.process.poll() is not None, seen=log.read_text)
            assert self.process.poll() is None, log.read_text()
        except AssertionError:
            self.process.kill()
            self.process.wait(60)
            raise

    def _answers(self) -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return self.get("/healthcheck").ok
        return False

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.ask("GET", path, **options)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, self.url + path, **{"auth": self.login, "timeout": 20, **options})

    def tasks(self, **query: str) -> dict[str, Any]:
        return dict(self.get("/api/tasks", params=query).json())

    def state(self, task: str) -> str | None:
        return self.tasks().get(task, {}).get("state")

    def workers(self) -> dict[str, bool]:
        return dict(self.get("/api/workers?status=1").json())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


Flowering = Callable[..., Watched]


@pytest.fixture
def flower(tmp_path: Path, valkey: Valkey) -> Iterator[Flowering]:
    """A function that starts `ifinu flower`."""
    started: list[Watched] = []

    def start(*options: str, prefix: str = "", redis_url: str = valkey.url) -> Watched:
        environment = {"IFINU_REDIS_URL": redis_url, "IFINU_FLOWER_AUTH": LOGIN}
        log = tmp_path / f"flower-{len(started)}.log"
        started.append(Watched(log, environment, "ifinu", "flower", *options, prefix=prefix))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def watches(site: Watched, fleet: Fleet) -> None:
    """Wait until Flower knows the workers, and they send events."""
    names = {f"w{number}@test": True for number in range(len(fleet.workers))}
    wait_until(lambda: site.workers() == names, seen=site.workers)
    wait_until(lambda: all("enabled by remote" in worker.text() for worker in fleet.workers))


def with_password(url: str) -> str:
    return url.replace("redis://", f"redis://default:{REDIS_PASSWORD}@")


def personal(ending: int, text: str = TEXT) -> dict[str, Any]:
    return {
        "telefone": f"{PHONE}{ending:04}",
        "nome": NAME,
        "texto": text,
        "valor": "10.00",
        "vencimento": "2026-12-01",
    }


def found(body: str) -> list[str]:
    """The forbidden words in an answer, in any escaping."""
    plain = html.unescape(body)
    with contextlib.suppress(ValueError):
        plain += str(json.loads(body))
    return [word for word in FORBIDDEN if word in plain.lower() or word in re.sub(r"[\s().-]", "", plain)]


def datatable(length: int = 1_000) -> str:
    return f"/tasks/datatable?draw=1&start=0&length={length}&order[0][column]=0&columns[0][data]=uuid&order[0][dir]=asc"


def test_celery_flower_works_as_a_plain_command(
    tmp_path: Path, valkey: Valkey, fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    `celery -A ifinu flower` beside a worker that sends events shows workers, queues and tasks, and nothing personal.
    """
    fleet.start("-E").ready()
    command = ("celery", "-A", "ifinu", "flower", "--address=127.0.0.1", f"--basic-auth={LOGIN}")
    with contextlib.ExitStack() as stack:
        flower = Watched(tmp_path / "flower.log", {"IFINU_REDIS_URL": valkey.url}, *command)
        stack.callback(flower.stop)
        wait_until(lambda: flower.get("/api/workers?refresh=1").json())
        queue.push(raw(1, nome="Zulmira Canario", telefone="77 99861-5555"))
        (task,) = wait_until(lambda: flower.tasks().values())
        assert (task["name"], task["uuid"], task["args"]) == (TASK, "test_1", "<lembrete>")
        wait_until(lambda: flower.state("test_1") == "SUCCESS")
        assert flower.tasks()["test_1"]["result"].startswith("'sent 3EB0")
        taken = wait_until(lambda: flower.get("/api/workers?refresh=1").json()["w0@test"].get("active_queues"))
        assert [each["name"] for each in taken] == list(QUEUES)
        lengths = flower.get("/api/queues/length").json()["active_queues"]
        assert sorted(each["name"] for each in lengths) == sorted(QUEUES)
        assert flower.get("/broker").ok
        assert not any(secret in str(flower.tasks()) for secret in ("Zulmira", "99861"))


def test_every_page_but_the_health_check_requires_the_login(flower: Flowering):
    site = flower("--allow-control")
    routes = [route[0] if isinstance(route, tuple) else route.regex.pattern.rstrip("$") for route in handlers]
    paths = [re.sub(r"\(\.[+*]\)", "x", route).replace("/?", "").replace(".*", "/nowhere") for route in routes]
    assert {"/", "/tasks", "/task/x", "/broker", "/metrics", "/api/tasks", "/api/worker/shutdown/x"} <= {*paths}
    for path in {*paths} - {"/healthcheck", "/static/x"}:
        for login in (None, ("ops", "a-password-of-the-test"), ("ops", LOGIN[4:] + "ç"), ("", "")):
            for method in ("GET", "POST", "OPTIONS"):
                refused = site.ask(method, path, auth=login)
                assert (refused.status_code, len(refused.text) < 100) == (401, True), (path, login, method)
                assert refused.headers["WWW-Authenticate"].startswith("Basic")
    for header in ("Bearer x", "Basic", "Basic %%%", f"Basic {LOGIN}"):
        assert site.get("/", auth=None, headers={"Authorization": header}).status_code == 401
    assert site.get("/healthcheck", auth=None).text == "OK"
    for path in ("/", "/workers", "/tasks", "/broker", "/metrics", "/api/tasks", "/api/workers"):
        assert site.get(path).status_code == 200, path


def test_flower_is_read_only(flower: Flowering, fleet: Fleet, queue: Queue, simulator: Simulated):
    """
    Every request that would change something is refused, and changes nothing.
    """
    worker = fleet.start().ready()
    site = flower()
    watches(site, fleet)
    plain = [route for route in handlers if isinstance(route, tuple)]
    changing = [route[0].removesuffix("(.+)") for route in plain if route[1].__module__ == "flower.api.control"]
    assert len(changing) >= 10
    arguments = {"n": "1", "min": "1", "max": "2", "queue": NORMAL, "ratelimit": "1/h", "soft": "1", "hard": "1"}
    for path in changing:
        for target in ("w0@test", TASK, "test_1"):
            assert site.ask("POST", path + target, params={**arguments, "workername": "w0@test"}).status_code == 403
    for path in ("apply", "async-apply", "send-task"):
        body = json.dumps({"args": [json.loads(raw("sneaked"))]})
        assert site.ask("POST", f"/api/task/{path}/{TASK}", data=body).status_code == 403
    assert site.ask("POST", "/api/task/abort/test_1").status_code == 403
    assert site.get("/api/task/result/test_1").status_code == 403
    queue.push(raw(1))
    wait_until(lambda: site.state("test_1") == "SUCCESS")
    assert worker.process.poll() is None
    assert "revoked" not in worker.text()
    assert simulator.total() == 1
    page = site.get("/worker/w0@test").text
    assert "Shut Down" not in page
    assert "worker-pool-grow" not in page


def test_flower_executes_commands_if_control_is_allowed(flower: Flowering, fleet: Fleet):
    worker = fleet.start().ready()
    site = flower("--allow-control")
    wait_until(lambda: "w0@test" in site.get("/api/workers").json())
    assert "Shut Down" in site.get("/worker/w0@test").text
    # The request of a page on another site.
    foreign = site.ask("POST", "/api/worker/shutdown/w0@test", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert site.ask("POST", "/api/worker/shutdown/w0@test").json() == {"message": "Shutting down!"}
    assert worker.process.wait(60) == 0


def test_workers_send_events_only_while_flower_runs(
    flower: Flowering, fleet: Fleet, client: redis.Redis, queue: Queue, simulator: Simulated
):
    def events(number: int) -> set[str]:
        """The event types of one message and of the worker's next two heartbeats."""
        types: list[str] = []
        with client.pubsub() as listening:
            listening.psubscribe("*celeryev*")
            wait_until(lambda: (listening.get_message(timeout=1) or {}).get("type") == "psubscribe")
            queue.push(raw(number))
            wait_until(lambda: simulator.total() == number and queue.idle())
            beats = 0
            while beats < 2:
                message = wait_until(lambda: listening.get_message(timeout=1))
                body = json.loads(json.loads(message["data"])["body"])
                batch = [each["type"] for each in (body if isinstance(body, list) else [body])]
                types += batch
                beats += batch.count("worker-heartbeat")
        return {*types}

    worker = fleet.start().ready()
    assert events(1) == {"worker-heartbeat"}
    site = flower()
    watches(site, fleet)
    assert events(2) >= {"task-received", "task-started", "task-succeeded", "worker-heartbeat"}
    assert site.stop() == 0
    wait_until(lambda: "disabled by remote" in worker.text())
    assert events(3) == {"worker-heartbeat"}


def test_no_page_or_answer_contains_personal_data(
    flower: Flowering, fleet: Fleet, valkey: Valkey, queue: Queue, simulator: Simulated
):
    """
    A phone, a name and a text go every way that a message can take; every page and API answer is searched for them.
    """
    here = str(Path(__file__).parent)
    fleet.start(application="quoting_app", PYTHONPATH=here, IFINU_REDIS_URL=with_password(valkey.url)).ready()
    site = flower(redis_url=with_password(valkey.url))
    watches(site, fleet)
    delay = "import sys, json, ifinu; ifinu.send_notification.delay(json.loads(sys.argv[1]))"
    message = json.dumps({"id": "delayed", "tipo_notificacao": "vencimento", **personal(7777)})
    subprocess.run(
        [sys.executable, "-c", delay, message], check=True, env={**os.environ, "IFINU_REDIS_URL": valkey.url}
    )
    # A stock Celery producer, which describes its arguments in full.
    with celery.Celery(broker=valkey.url, set_as_current=False) as stock:
        stock.conf.broker_transport_options = {"priority_steps": [0]}
        body = {"id": "foreign", "tipo_notificacao": "atraso", **personal(7778), "vencimento": "2025-12-01"}
        stock.send_task(TASK, args=[body], task_id="foreign", queue=NORMAL)
        stock.send_task(TASK, kwargs={"message": body | {"id": "kw"}}, task_id="kw", queue=NORMAL)
        stock.send_task(TASK, args=[], kwargs=personal(7779), task_id="misfit", queue=NORMAL)
        stock.send_task(f"task of {NAME}", args=[body], task_id="unknown_name", queue=NORMAL)
    queue.push(
        raw("sent", **personal(7780)),
        raw("retried", **personal(2)),  # closed, closed, ok
        raw("in_doubt", **personal(5)),
        raw("not_there", **personal(1)),
        raw("unread", **personal(7781)).replace(b'"lembrete"', json.dumps(f"{NAME} {PHONE}7781").encode()),
        raw("invalid", **(personal(7782) | {"telefone": f"{PHONE}77820 {NAME}", "valor": TEXT})),
        raw("quoted", **personal(7783, QUOTED)),
    )
    ends = {
        "delayed": "SUCCESS",
        "foreign": "SUCCESS",
        "kw": "SUCCESS",
        "misfit": "FAILURE",
        "test_sent": "SUCCESS",
        "test_retried": "SUCCESS",
        "test_in_doubt": "SUCCESS",
        "test_not_there": "FAILURE",
        "test_unread": "FAILURE",
        "test_invalid": "FAILURE",
        "test_quoted": "FAILURE",
    }
    wait_until(
        lambda: {id_: task["state"] for id_, task in site.tasks().items()} == ends,
        seen=lambda: {id_: (task["state"], task["args"], task["exception"]) for id_, task in site.tasks().items()},
    )
    assert simulator.total() > 5
    tasks = site.tasks()
    assert {task["args"] for task in tasks.values()} <= {f"<{kind.value}>" for kind in Kind} | {"<?>"}
    shown = [tasks[id_]["args"] for id_ in ("test_sent", "delayed", "foreign", "test_unread")]
    assert shown == ["<lembrete>", "<vencimento>", "<?>", "<?>"]
    assert tasks["test_sent"]["result"].startswith("sent 3EB0")
    assert tasks["test_quoted"]["exception"] == "ValueError(…)"
    assert "quoting_app.py" in tasks["test_quoted"]["traceback"]
    assert tasks["test_invalid"]["exception"] == "InvalidNotification(…)"
    assert tasks["test_not_there"]["exception"] == "Refused('ifinu: HTTP 400; the number is not on WhatsApp')"
    paths = [
        "/", "/workers", "/workers?json=1", "/worker/w0@test", "/tasks", datatable(), "/broker", "/metrics",
        "/api/workers?refresh=1", "/api/workers?workername=w0@test&refresh=1", "/api/tasks", "/api/task/types",
        "/api/queues/length", *(f"/task/{id_}" for id_ in ends), *(f"/api/task/info/{id_}" for id_ in ends),
    ]  # fmt: skip
    for path in paths:
        answer = site.get(path)
        assert answer.status_code == 200, path
        assert found(answer.text) == [], path
    for word in ("Zulmira", "args:Zulmira", f"{PHONE}0005", "kwargs:secreta"):
        assert site.tasks(search=word) == {}, word
    log = site.log.read_text()
    assert found(log) == []
    assert "Traceback" not in log


def test_a_send_under_way_is_shown_without_its_content(
    flower: Flowering, fleet: Fleet, queue: Queue, simulator: Simulated
):
    fleet.start().ready()
    site = flower()
    watches(site, fleet)
    queue.push(raw("slow", **personal(6)))  # the gateway takes long to answer

    def active() -> list[dict[str, Any]]:
        answer = site.get("/api/workers?workername=w0@test&refresh=1").json()
        return list(answer["w0@test"].get("active", []))

    (slow,) = wait_until(active)
    assert (slow["id"], slow["args"], slow["kwargs"]) == ("test_slow", "<lembrete>", "{}")
    page = site.get("/worker/w0@test").text
    assert "test_slow" in page
    assert found(page) == []


def test_the_queues_are_shown_with_their_counts(flower: Flowering, fleet: Fleet, client: redis.Redis, queue: Queue):
    Queue(client, URGENT).push(*(raw(number) for number in range(3)))
    Queue(client, LOW).push(raw("low"))
    queue.push(raw("x"), raw("y"))
    client.zadd(Keys.of(NORMAL).delayed, {raw("z"): 4e12})
    client.lpush(Keys.of(LOW).dead, b"{}", b"{}")
    site = flower("--url-prefix", "/flower", prefix="/flower")
    expected = {
        URGENT: (3, 0, 3, 0), NORMAL: (2, 0, 2, 0), LOW: (1, 0, 1, 0),
        f"{URGENT}:agendadas": 0, f"{NORMAL}:agendadas": 1, f"{LOW}:agendadas": 0,
        f"{URGENT}:dlq": 0, f"{NORMAL}:dlq": 0, f"{LOW}:dlq": 2,
    }  # fmt: skip

    def seen() -> dict[str, Any]:
        rows = site.get("/api/queues/length").json()["active_queues"]
        names = ("messages", "messages_unacknowledged", "messages_ready", "consumers")
        return {
            row["name"]: tuple(row[name] for name in names) if "consumers" in row else row["messages"] for row in rows
        }

    assert seen() == expected
    cells = re.findall(r"<td[^>]*>(.*?)</td>", site.get("/broker").text)
    assert [cells[i] for i in range(0, len(cells), 6)] == list(expected)
    assert cells[:5] == [URGENT, "3", "0", "3", "0"]
    # A worker that starts later is counted too, and its messages are listed separately.
    fleet.start(IFINU_RATE_LIMIT="1/h", IFINU_RATE_BURST="1").ready()
    wait_until(lambda: seen()[URGENT] == (2, 2, 0, 1) and seen()[NORMAL] == (2, 2, 0, 1), seen=seen)


def test_flower_keeps_at_most_max_tasks(flower: Flowering, fleet: Fleet, queue: Queue, simulator: Simulated):
    fleet.start(IFINU_RATE_LIMIT="200/s").ready()
    site = flower("--max-tasks", "40")
    watches(site, fleet)
    queue.push(*(raw(number) for number in range(120)))
    wait_until(lambda: simulator.total() == 120 and queue.idle(), seen=queue.counts)
    # The last task has arrived, so the earlier ones have too.
    wait_until(lambda: site.state("test_119") == "SUCCESS", seen=site.tasks)
    assert len(site.tasks()) == 40
    page = site.get(datatable()).json()
    assert (page["recordsTotal"], page["recordsFiltered"], len(page["data"])) == (40, 40, 40)
    assert site.tasks(search="test_1") != {}
    assert "test_5" not in site.tasks()


def test_flower_goes_on_after_a_redis_outage(tmp_path: Path, flower: Flowering, simulator: Simulated):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(redis_server(tmp_path / "valkey"))
        workers = fleet_of(tmp_path, server.url, simulator.url)
        stack.callback(workers.stop)
        workers.start().ready()
        site = flower(redis_url=server.url)
        wait_until(lambda: site.workers() == {"w0@test": True})
        server.stop()
        wait_until(lambda: "ifinu.flower.events_away" in site.log.read_text())
        assert site.get("/healthcheck").ok
        assert site.get("/tasks").ok
        assert site.get("/broker").ok
        assert site.get("/api/queues/length").status_code == 503
        server.start()
        with redis.Redis.from_url(server.url) as client:
            queue, numbers = Queue(client), itertools.count()

            def seen() -> bool:
                queue.push(raw(next(numbers)))
                return any(task["state"] == "SUCCESS" for task in site.tasks().values())

            wait_until(seen, seen=site.log.read_text)
        server.stop()
        assert site.stop() == 0
        assert "Traceback" not in site.log.read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_unusable_address_is_reported_in_one_line(valkey: Valkey, host: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, "-m", "ifinu", "flower", "--host", host, "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={**os.environ, "IFINU_REDIS_URL": valkey.url, "IFINU_FLOWER_AUTH": LOGIN},
        )
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: {host}:{port}: .*\n", ended.stderr), ended.stderr


def test_a_person_sees_workers_queues_and_tasks(
    tmp_path: Path, flower: Flowering, fleet: Fleet, queue: Queue, simulator: Simulated
):
    """
    In a real browser, which asks for the login; FLOWER_PICTURE names a file for the picture in the docs.
    """
    for name in ("0", "1"):
        fleet.start(IFINU_RATE_LIMIT="20/s", IFINU_WORKER_NAME=f"worker-{name}")
    for worker in fleet.workers:
        worker.ready()
    site = flower()
    watches(site, fleet)
    kinds = [kind.value for kind in Kind]
    fields = {
        number: personal(number) | {"tipo_notificacao": kinds[number % len(kinds)]} for number in range(4100, 4112)
    }
    fields[4112] = personal(1)  # not on WhatsApp
    fields[4113] = personal(2)  # the instance has lost its connection, twice
    fields[4114] = personal(4114) | {"valor": "de graça"}
    queue.push(*(raw(number, **each | {"id": f"fatura-{number}"}) for number, each in fields.items()))
    wait_until(
        lambda: sum(task["state"] in ("SUCCESS", "FAILURE") for task in site.tasks().values()) == 15,
        seen=lambda: [*site.tasks().values()],
    )
    with Browser(tmp_path, LOGIN, size=(1600, 930)) as browser:
        browser.open(f"{site.url}/workers")
        text = browser.shows("w0@test", "w1@test", "Online")
        assert browser.asked == 1
        assert found(text) == []
        browser.open(f"{site.url}/broker")
        browser.shows(*QUEUES, f"{NORMAL}:dlq")
        browser.open(f"{site.url}/tasks")
        text = browser.shows(
            *(f"fatura-{number}" for number in fields), "SUCCESS", "FAILURE", *(f"<{k}>" for k in kinds)
        )
        assert found(text) + found(browser.html()) == []
        if picture := os.environ.get("FLOWER_PICTURE"):
            browser.picture(Path(picture))
        browser.evaluate("document.querySelector('#tasks-table a[href$=\"fatura-4112\"]').click()")
        text = browser.shows("fatura-4112", "FAILURE", "the number is not on WhatsApp")
        assert found(text) + found(browser.html()) == []
        assert browser.errors == []


def test_a_browser_with_a_wrong_login_sees_nothing(tmp_path: Path, flower: Flowering):
    site = flower()
    with Browser(tmp_path, "ops:not-the-password") as browser:
        browser.open(f"{site.url}/tasks")
        assert browser.shows("log in with the user").count("\n") <= 1
        assert browser.asked == 2
