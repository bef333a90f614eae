"""`ifinu top` on a real pseudo-terminal, and `ifinu status`, with real workers."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from command_line import Shell
from processes import API_KEY, numbered, raw, redis_server, wait_until
from terminals import ENTER, LEAVE, Terminal

from ifinu.broker.keys import EVENTS, LOW, NORMAL, UNKNOWN, Keys
from ifinu.cli.top.workers import AWAY, Workers

CLEAR = b"\x1b[2J"
RATE = 20  # messages a second of one worker; a busy machine still keeps it


@pytest.fixture
def terminal(valkey):
    """A function that opens terminals; each is closed at the end."""
    made = []

    def open_one(*arguments, **options):
        made.append(Terminal(*arguments, **{"IFINU_REDIS_URL": valkey.url, **options}))
        return made[-1]

    yield open_one
    for one in made:
        one.stop()


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "ifinu", *arguments], env=os.environ | environment, capture_output=True, text=True,
        timeout=200, check=False,
    )  # fmt: skip


def rows(text):
    """The cells of each line, by its first cell."""
    return {cells[0]: cells[1:] for line in text.splitlines() if (cells := line.split())}


def rate_of(text, worker):
    cells = rows(text).get(worker)
    return float(cells[0]) if cells and re.fullmatch(r"[\d.]+", cells[0]) else None


def backlog_of(text):
    return int(re.search(r"backlog ([\d,]+)", text)[1].replace(",", ""))


# -- the screen


@pytest.mark.alone
def test_a_backlog_falls_while_each_worker_keeps_its_pace(terminal, fleet, queue):
    for _ in range(2):
        fleet.start(IFINU_RATE_LIMIT=f"{RATE}/s")
    for worker in fleet.workers:
        worker.ready()
    top = terminal("top", "--every", "1")
    top.shows("w0@test", "w1@test", f"of {2 * RATE}/s", "backlog 0", "2 workers")
    queue.push(*[raw(number) for number in range(9_000)])

    def both_at_their_pace():
        found = top.text()
        rates = [rate_of(found, name) for name in ("w0@test", "w1@test")]
        return all(rate is not None and 0.9 * RATE <= rate <= 1.1 * RATE for rate in rates) and found

    seen = wait_until(both_at_their_pace, 90, top.text)
    first = backlog_of(seen)
    wait_until(lambda: backlog_of(top.text()) < first, seen=top.text)
    assert 0 < first <= 9_000
    assert backlog_of(top.text()) >= queue.counts()["ready"]
    top.shows("empty in", "sent", "ifinu", "↓")

    fleet.workers[0].kill()

    def one_silent():
        found = top.text()
        silent = [line for line in found.splitlines() if line.startswith("w0@test") and "no answer for" in line]
        return silent and "1 silent" in found and f"of {RATE}/s" in found and rate_of(found, "w1@test") is not None

    wait_until(one_silent, seen=top.text)
    wait_until(lambda: "w0@test" not in top.text(), 90, top.text)  # a worker without answers is dropped after a while

    top.press("q")
    assert top.ended() == 0
    assert top.raw.count(CLEAR) <= 2  # on entering and at the first frame; otherwise only changes are drawn


def test_each_key_does_what_its_help_says(terminal):
    top = terminal("top", "--every", "1")
    top.shows("sorted by name", "no worker answers")
    top.press("s")
    top.shows("sorted by rate")
    top.press("ss")
    top.shows("sorted by name")
    top.press("\x1b[A")  # an arrow is not one of our keys
    top.press("?")
    top.shows("sort workers: name, rate, busy", "ifinu unknown list")
    top.press("?p")
    top.shows("paused, p resumes", "no worker answers")
    top.press("p")
    top.shows("every 1 s")
    assert top.process.poll() is None
    top.press("q")
    assert top.ended() == 0


def test_a_paused_screen_does_not_change_until_it_resumes(terminal, client):
    top = terminal("top", "--every", "1")
    top.shows("backlog 0")
    top.press("p")
    top.shows("paused")
    at = re.search(r"\d\d:\d\d:\d\d", top.text())[0]
    client.lpush(NORMAL, *numbered(7))
    looks = client.info("commandstats")["cmdstat_publish"]["calls"]
    wait_until(lambda: client.info("commandstats")["cmdstat_publish"]["calls"] >= looks + 3)  # it still polls
    assert at in top.text()
    assert "backlog 0" in top.text()
    top.press("p")
    top.shows("backlog 7")


def test_a_resize_redraws_the_screen(terminal):
    top = terminal("top", size=(130, 30))
    top.shows("no worker answers", "last 5 min", "outcome", "in flight")
    top.resize(40, 10)
    wait_until(lambda: "in flight" not in top.text(), seen=top.text)
    top.shows("ifinu top", "whatsapp", "no worker answers")
    assert "in flight" not in top.text()
    top.resize(130, 40)
    top.shows("last 5 min", "outcome")
    top.press("q")
    assert top.ended() == 0


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda top: top.press("\x03"), 130),
        (lambda top: top.process.send_signal(signal.SIGTERM), 143),
        (lambda top: top.process.send_signal(signal.SIGHUP), 129),
        (lambda top: top.press("\x04"), None),  # Ctrl-D is not one of our keys
    ],
    ids=["ctrl-c", "sigterm", "sighup", "ctrl-d"],
)
def test_every_end_restores_the_terminal(terminal, end, code):
    top = terminal("top")
    top.shows("no worker answers")
    assert not top.is_as_before()  # keys arrive at once and are not echoed
    end(top)
    if code is None:
        top.shows("no worker answers")
        top.press("q")
    assert top.ended() == (code or 0)


def test_an_error_restores_the_terminal_and_is_shown(terminal):
    broken = "import ifinu.cli.top.frame as d; d._state = lambda *_: 1 / 0; from ifinu.cli import main; main(['top'])"
    top = terminal(program=("-c", broken))
    assert top.ended() == 1
    assert top.raw.rindex(b"ZeroDivisionError") > top.raw.rindex(LEAVE)


def test_an_error_while_reading_redis_is_shown(terminal):
    broken = (
        "import ifinu.broker.redis_state as s; s._accepted_s = lambda *_: 1 / 0; from ifinu.cli import main; "
        "main(['top'])"
    )
    top = terminal(program=("-c", broken))
    assert top.ended() == 1
    assert top.raw.rindex(b"ZeroDivisionError") > top.raw.rindex(LEAVE)


def test_top_can_be_suspended_and_resumed(terminal):
    top = terminal("top", "--every", "1")
    top.shows("no worker answers")
    top.press("\x1a")
    stat = Path(f"/proc/{top.process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
    wait_until(lambda: top.raw.count(LEAVE) == 1)
    assert top.is_as_before()
    top.process.send_signal(signal.SIGCONT)
    wait_until(lambda: top.raw.count(ENTER) == 2)
    top.shows("no worker answers")
    top.press("q")
    assert top.ended() == 0


def test_without_redis_top_says_so_and_retries(terminal, tmp_path):
    with redis_server(tmp_path / "own") as server:
        top = terminal("top", "--every", "1", IFINU_REDIS_URL=server.url)
        top.shows("backlog 0", "whatsapp")
        server.kill()
        top.shows("Redis cannot be reached, since", "whatsapp")  # the last known state
        server.start()
        top.shows("backlog 0")
        top.press("q")
        assert top.ended() == 0


def test_top_starts_without_redis_and_ends_at_once(terminal):
    top = terminal("top", IFINU_REDIS_URL="redis://localhost:1")
    top.shows("Redis cannot be reached")
    top.press("q")
    assert top.ended() == 0


def test_no_color_disables_colours(terminal, client):
    client.lpush(Keys.of(NORMAL).dead, "foreign")
    plain = terminal("top", "--frames", "2", NO_COLOR="1")
    coloured = terminal("top", "--frames", "2")
    colour = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38;[\d;]+)m")
    assert plain.ended() == 0
    assert coloured.ended() == 0
    assert colour.search(coloured.raw)
    assert not colour.search(plain.raw)
    assert b"no worker answers" in plain.raw


def test_an_ascii_terminal_gets_ascii_only(terminal, client):
    client.lpush(NORMAL, *numbered(3))
    top = terminal("top", "--frames", "2", LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii", size=(130, 30))
    assert top.ended() == 0
    assert top.raw.isascii()
    assert b"backlog 3" in top.raw


def test_top_leaves_nothing_in_redis(terminal, client):
    client.config_resetstat()
    top = terminal("top", "--every", "1")
    wait_until(lambda: client.info("commandstats").get("cmdstat_publish", {}).get("calls", 0) >= 3)
    top.press("q")
    assert top.ended() == 0
    assert list(client.scan_iter("*reply*")) == []


# -- text and JSON


def test_without_a_terminal_top_suggests_once(valkey):
    ended = run("top", IFINU_REDIS_URL=valkey.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "--once" in ended.stderr
    assert "ifinu status" in ended.stderr


def test_once_prints_text_with_rates(valkey, fleet, queue):
    fleet.start(IFINU_RATE_LIMIT=f"{RATE}/s").ready()
    queue.push(*[raw(number) for number in range(9_000)])
    wait_until(lambda: queue.counts()["in_flight"])

    def at_its_pace():
        ended = run("top", "--once", IFINU_REDIS_URL=valkey.url)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert "\x1b" not in ended.stdout
        rate = rate_of(ended.stdout, "w0@test")
        return rate is not None and 0.9 * RATE <= rate <= 1.1 * RATE and ended.stdout

    shown = wait_until(at_its_pace)
    assert "dead, by reason" in shown
    assert 0 < backlog_of(shown) < 9_000


def test_once_without_redis_ends_with_3():
    ended = run("top", "--once", IFINU_REDIS_URL="redis://localhost:1")
    assert ended.returncode == 3
    assert "Redis cannot be reached" in ended.stdout
    assert ended.stderr.startswith("error: Redis cannot be reached")


def test_json_prints_a_line_for_each_reading(valkey, client, fleet, queue):
    fleet.start(IFINU_RATE_LIMIT=f"{RATE}/s").ready()
    client.lpush(Keys.of(LOW).dead, "foreign")
    client.zadd(UNKNOWN, {"x": 1})
    client.xadd(EVENTS, {"event": "sent", "id": "x", "data": "{}"})
    queue.push(*[raw(number) for number in range(9_000)])

    def two_looks():
        ended = run("top", "--json", "--frames", "2", "--every", "1", IFINU_REDIS_URL=valkey.url)
        assert (ended.returncode, ended.stderr) == (0, "")
        looks = [json.loads(line) for line in ended.stdout.splitlines()]
        assert len(looks) == 2
        answers = [one["workers"][0] for one in looks if one["workers"]]
        answered = [one["ended"]["sent"] for one in answers if one["silent_s"] == 0 and one["ended"]]
        return len(answered) == 2 and answered[0] < answered[1] and looks

    looks = wait_until(two_looks)
    for one in looks:
        assert one["error"] is None
        assert one["limit_per_s"] == RATE
        assert one["dead_by_reason"] == {"foreign": 1}
        assert (one["unknown"], one["ledger_waiting"] >= 1, one["ledger_recorded"]) == (1, True, False)
        (worker,) = one["workers"]
        assert (worker["name"], worker["slots"], worker["silent_s"]) == ("w0@test", 10, 0)
        assert worker["rate_per_s"] == pytest.approx(one["rate_per_s"])
    assert looks[1]["backlog"] < looks[0]["backlog"] <= 9_000


# -- what a worker answers


def test_a_worker_answers_with_its_counts(valkey, fleet, queue, simulator):
    worker = fleet.start(IFINU_RATE_LIMIT="200/s", IFINU_MAX_RETRIES="0").ready()
    queue.push(*[raw(number) for number in range(20)], raw(3), b"not json")
    wait_until(lambda: queue.idle() and len(queue.dead()) == 1, seen=lambda: (queue.counts(), worker.text()))

    def answer():
        with Workers(valkey.url) as workers:
            return workers.ask().get(("w0@test", worker.process.pid), {"ended": {}})

    ends = {"sent": 20, "duplicate": 1, "dead": 1}
    shown = wait_until(lambda: (now := answer())["ended"] == ends and not now["busy"] and now, seen=answer)
    assert (shown["limit_per_s"], shown["slots"], shown["busy"], shown["breaker_open"]) == (200, 10, 0, False)
    assert (shown["pid"], shown["version"], shown["records"]) == (worker.process.pid, "0.1.0", False)
    assert shown["instances"] == {"ifinu": {"sent": 20, "failed": 0, "held": False}}
    assert shown["answers"] == {"sent": 20}
    assert shown["up_s"] > 0
    wait_until(lambda: answer().get("up_s", 0) > shown["up_s"])


def test_a_worker_that_hangs_does_not_hide_the_others(valkey, fleet, client):
    for worker in (fleet.start(), fleet.start()):
        worker.ready()
    with Workers(valkey.url) as workers:
        wait_until(lambda: len(workers.ask()) == 2)
        fleet.workers[0].process.send_signal(signal.SIGSTOP)
        wait_until(lambda: [name for name, _ in workers.ask()] == ["w1@test"])
        fleet.workers[0].process.send_signal(signal.SIGCONT)
        wait_until(lambda: len(workers.ask()) == 2)
        fleet.workers[0].kill()
        wait_until(lambda: [name for name, _ in workers.ask()] == ["w1@test"])
    assert list(client.scan_iter("*reply*")) == []


def test_a_query_without_redis_raises_and_can_be_repeated(tmp_path):
    with redis_server(tmp_path / "own") as server, Workers(server.url) as workers:
        assert workers.ask() == {}
        server.kill()
        with pytest.raises((redis.RedisError, *AWAY)):
            workers.ask()
        server.start()
        assert workers.ask() == {}


# -- status


@pytest.fixture
def ifinu(capsys, monkeypatch, valkey, tmp_path):
    monkeypatch.setenv("IFINU_REDIS_URL", valkey.url)
    monkeypatch.setenv("IFINU_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    return Shell(capsys, monkeypatch)


def test_status_shows_each_worker_and_the_instances_on_hold(ifinu, fleet, queue, simulator, client):
    fleet.start(IFINU_MAX_RETRIES="9").ready()
    fleet.start().ready()
    queue.push(*[raw(number) for number in range(30)])
    wait_until(queue.idle, seen=queue.counts)
    simulator.control.set_instance("ifinu", state="close")
    queue.push(*[raw(number) for number in range(100, 130)])
    both = ["w0@test", "w1@test"]

    def seen():
        found = ifinu("status", "--json").json
        snapshots = found["snapshots"]
        names = [one["name"] for one in snapshots]
        return found["held"], found["workers"], names, sum(one["ended"].get("sent", 0) for one in snapshots)

    wait_until(lambda: seen() == (["ifinu"], both, both, 30), seen=seen)

    def shows(text):
        return "instances whose messages wait: ifinu" in text and {*both} <= rows(text).keys() and text

    shown = wait_until(lambda: shows(ifinu("status").out))
    for name in both:
        cells = rows(shown)[name]
        assert (cells[0], cells[1].partition("/")[2]) == ("50", "10")
    assert rows(shown)["worker"] == ["limit/s", "busy", "waiting", "sent", "duplicate", "dead", "up", "breaker"]


def test_status_counts_duplicates_by_worker_also_without_a_ledger(ifinu, fleet, queue, simulator):
    queue.push(*[raw(1)] * 100)
    fleet.start(IFINU_RATE_LIMIT="200/s").ready()
    wait_until(queue.idle, seen=queue.counts)

    def seen():
        found = ifinu("status", "--json").json
        return "error" in found["ledger"], [one["ended"] for one in found["snapshots"]]

    wait_until(lambda: seen() == (True, [{"sent": 1, "duplicate": 99}]), seen=seen)
    wait_until(lambda: rows(ifinu("status").out).get("w0@test", [])[3:5] == ["1", "99"])


def test_status_shows_the_breaker(ifinu, fleet, queue, simulator):
    fleet.start().ready()
    simulator.control.set_fault(gateway="unavailable")
    queue.push(*[raw(number) for number in range(20)])
    wait_until(lambda: "open: the gateway is away" in ifinu("status").out)


def test_status_shows_the_oldest_message_and_the_dead_letters_by_reason(ifinu, client):
    client.lpush(NORMAL, json.dumps({"id": "a", "criado_em": "2026-01-01T00:00:00+00:00"}))
    for number in range(8):
        client.lpush(Keys.of(NORMAL).dead, *[letter(f"reason_{number}")] * (9 - number))
    client.lpush(Keys.of(LOW).dead, letter("reason_0"))
    found = {queue["queue"]: queue for queue in ifinu("status", "--json").json["queues"]}
    assert found[NORMAL]["oldest_s"] > 86_400
    assert found[LOW]["oldest_s"] is None
    assert found[NORMAL]["dead_by_reason"]["reason_7"] == 2
    shown = ifinu("status", "--no-workers").out
    assert "dead: 10 reason_0, 8 reason_1, 7 reason_2, 6 reason_3, 5 reason_4, 9 others; see" in shown
    assert re.search(r"whatsapp +1 +\d+ d \d+ h ", shown)
    assert "workers" not in shown


def letter(reason):
    at = "2026-11-25T00:00:00+00:00"
    return json.dumps({"reason": reason, "error": "", "attempts": 0, "first_at": at, "last_at": at, "id": None,
                       "kind": None, "raw": "{}"})  # fmt: skip


def test_status_says_that_no_worker_answers(ifinu):
    assert "workers: none answers" in ifinu("status").out
    found = ifinu("status", "--json").json
    assert (found["workers"], found["snapshots"], found["held"]) == ([], [], [])
    assert "workers" not in ifinu("status", "--no-workers", "--json").json


def test_status_without_redis_shows_the_rest_and_ends_with_3(ifinu, monkeypatch, simulator, ledger, ledger_url):
    monkeypatch.setenv("IFINU_REDIS_URL", "redis://localhost:1")
    monkeypatch.setenv("IFINU_EVOLUTION_URL", simulator.url)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY", API_KEY)
    monkeypatch.setenv("IFINU_DATABASE_URL", ledger_url)
    ended = ifinu("status")
    assert ended.code == 3
    assert ended.err.startswith("error: Redis cannot be reached")
    for expected in ("Redis does not answer", "instance ifinu, open", "workers: not known", "ledger: nothing in"):
        assert expected in ended.out
    ended = ifinu("status", "--json")
    assert ended.code == 3
    found = ended.json
    assert (found["queues"], found["unknown"], found["workers"], found["snapshots"]) == ([], None, None, None)
    assert (found["gateway"]["state"], found["ledger"]["total"], found["ledger"]["waiting"]) == ("open", 0, None)
    assert found["redis"]["error"]
