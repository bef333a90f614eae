from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from processes import redis_server, wait_until

from ifinu.broker import connections
from ifinu.broker.connections import ScriptRunner
from ifinu.broker.keys import Script
from ifinu.embedded import Valkey
from ifinu.loop import Loop, sleep

ECHO = Script("echo", "return {KEYS[1], ARGV[1]}")
COUNT = Script("count", "return redis.call('INCR', KEYS[1])")
FAILS = Script("fails", "return redis.error_reply('OOPS it is broken')")


@pytest.fixture
def loop() -> Iterator[Loop]:
    with contextlib.closing(Loop()) as made:
        yield made


@pytest.fixture
def runner(client: redis.Redis) -> ScriptRunner:
    return ScriptRunner(client)


def results(loop: Loop, *calls: Callable[[], object]) -> list[object]:
    """What tasks return or raise, run beside each other, in the order of the calls."""
    found: dict[int, object] = {}

    def run(number: int, call: Callable[[], object]) -> None:
        try:
            found[number] = call()
        except redis.RedisError as exc:
            found[number] = exc

    for number, call in enumerate(calls):
        loop.spawn(partial(run, number, call))
    loop.run_until(lambda: not loop.tasks)
    return [found[number] for number in range(len(calls))]


def echo(runner: ScriptRunner, text: str) -> Callable[[], object]:
    return lambda: runner.run(ECHO, ("k",), (text,))


def test_each_task_gets_the_answer_to_its_own_command_over_one_connection(
    loop: Loop, runner: ScriptRunner, client: redis.Redis
):
    client.script_flush()
    before = client.info("stats")["total_connections_received"]
    found = results(loop, *(echo(runner, f"n{number}") for number in range(200)))
    assert found == [[b"k", f"n{number}".encode()] for number in range(200)]
    assert client.info("stats")["total_connections_received"] == before + 1


def test_two_runners_of_one_server_share_the_connection(loop: Loop, client: redis.Redis):
    before = client.info("stats")["total_connections_received"]
    results(loop, *(echo(ScriptRunner(client), "x") for _ in range(5)))
    assert client.info("stats")["total_connections_received"] == before + 1


def test_a_large_command_and_a_large_answer_pass_whole(loop: Loop, runner: ScriptRunner):
    text = "ã" * 3_000_000
    assert results(loop, echo(runner, text), echo(runner, "small")) == [[b"k", text.encode()], [b"k", b"small"]]


def test_an_error_of_the_server_reaches_its_task_alone(loop: Loop, runner: ScriptRunner):
    fails, fine = results(loop, lambda: runner.run(FAILS, (), ()), echo(runner, "fine"))
    assert isinstance(fails, redis.ResponseError)
    assert "it is broken" in str(fails)
    assert fine == [b"k", b"fine"]


def test_a_connection_that_the_server_ends_is_opened_again(loop: Loop, runner: ScriptRunner, client: redis.Redis):
    assert results(loop, echo(runner, "before")) == [[b"k", b"before"]]
    client.client_kill_filter(_type="normal", skipme=True)
    assert results(loop, echo(runner, "a"), echo(runner, "b")) == [[b"k", b"a"], [b"k", b"b"]]


class Faulty:
    """
    A server in front of Redis that breaks connections.

    Args:
        url: Where Redis is.
        answers: How many commands of each connection get an answer; None for all.
    """

    def __init__(self, port: int, *answers: int | None) -> None:
        self._to, self._answers = port, list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock = self._listener.accept()[0]
                left = self._answers.pop(0) if self._answers else None
                threading.Thread(target=self._serve, args=(sock, left), daemon=True).start()

    def _serve(self, sock: socket.socket, left: int | None) -> None:
        """Pass on each piece, and its answer unless none is left: then Redis has done it, and the connection ends."""
        with sock, socket.create_connection(("127.0.0.1", self._to)) as server, contextlib.suppress(OSError):
            while data := sock.recv(1_000_000):
                server.sendall(data)
                answer = server.recv(1_000_000)
                if b"EVAL" in data and left is not None:
                    if left <= 0:
                        return
                    left -= 1
                sock.sendall(answer)


@pytest.fixture
def faulty(valkey: Valkey) -> Iterator[Callable[..., Faulty]]:
    with contextlib.ExitStack() as made:

        def make(*answers: int | None) -> Faulty:
            server = Faulty(redis.connection.parse_url(valkey.url)["port"], *answers)
            made.callback(server.close)
            return server

        yield make


def test_what_broke_in_flight_is_sent_once_more(loop: Loop, client: redis.Redis, faulty):
    """The first run of each has counted: so a script must change nothing the second time, and ours do not."""
    ScriptRunner(client).run(COUNT, ("other",), ())
    server = faulty(0)
    with connections.connect(server.url) as behind:
        runner = ScriptRunner(behind)
        found = results(loop, *(lambda: runner.run(COUNT, ("n",), ()) for _ in range(3)))
    assert sorted(found) == [4, 5, 6]


def test_what_breaks_twice_fails_every_task(loop: Loop, faulty):
    server = faulty(0, 0)
    with connections.connect(server.url) as behind:
        runner = ScriptRunner(behind)
        found = results(loop, echo(runner, "a"), echo(runner, "b"))
        assert [type(one) for one in found] == [redis.ConnectionError] * 2
        assert results(loop, echo(runner, "later")) == [[b"k", b"later"]]


def test_a_server_that_does_not_answer_in_time_fails_every_task_and_nothing_is_sent_again(
    loop: Loop, valkey: Valkey, client: redis.Redis
):
    with redis.Redis.from_url(valkey.url, socket_timeout=0.2) as impatient:
        runner = ScriptRunner(impatient)
        wait_until(lambda: results(loop, echo(runner, "before")) == [[b"k", b"before"]])
        client.client_pause(600_000, all=False)  # all but reads, so that it can be ended
        found = results(loop, *(lambda: runner.run(COUNT, ("paused",), ()) for _ in range(2)))
        assert [type(one) for one in found] == [redis.TimeoutError] * 2
        client.client_unpause()
    assert int(client.get("paused") or 0) <= 2


def test_a_server_that_is_away_fails_every_task_and_is_used_when_it_is_back(loop: Loop, tmp_path: Path):
    with redis_server(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        runner = ScriptRunner(client)
        assert results(loop, echo(runner, "before")) == [[b"k", b"before"]]
        server.kill()
        found = results(loop, echo(runner, "a"), echo(runner, "b"))
        assert [isinstance(one, redis.ConnectionError) for one in found] == [True, True]
        server.start()
        assert results(loop, echo(runner, "after")) == [[b"k", b"after"]]


def test_a_task_waits_for_redis_while_others_run(loop: Loop, runner: ScriptRunner, client: redis.Redis):
    order = []
    results(loop, echo(runner, "connect"))
    client.client_pause(600_000, all=False)

    def asks() -> None:
        runner.run(ECHO, ("k",), ("x",))
        order.append("answered")

    def works() -> None:
        sleep(0.02)
        order.append("worked")
        client.client_unpause()

    results(loop, asks, works)
    assert order == ["worked", "answered"]


def test_outside_of_a_loop_each_thread_has_a_connection(runner: ScriptRunner):
    found = []
    threads = [threading.Thread(target=lambda: found.append(runner.run(ECHO, ("k",), ("x",)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[b"k", b"x"]] * 3
    assert runner.command("PING") in (b"PONG", True)
