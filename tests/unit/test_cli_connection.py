"""How long a command tries to reach a server, and which errors it does not retry."""

import ssl

import pytest
import redis

from ifinu.cli import connection
from ifinu.errors import BackupFailed, GatewayError, LedgerUnavailable


class Refusing:
    """Raises each of its errors once, then answers."""

    def __init__(self, *errors):
        self.left = list(errors)
        self.asked = 0

    def __call__(self):
        self.asked += 1
        if self.left:
            raise self.left.pop(0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(connection, "_PAUSE_S", 0.001)


def of_libpq(words, pgcode=None):
    class Error(Exception):
        pass

    failed, cause = LedgerUnavailable(words), Error(words)
    cause.pgcode = pgcode
    failed.__cause__ = cause
    return failed


AWAY = [
    redis.ConnectionError("Error 111 connecting to redis:6379. Connection refused."),
    redis.TimeoutError("Timeout connecting to server"),
    redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    of_libpq('connection to server at "db" (10.0.0.1), port 5432 failed: Connection refused'),
    of_libpq('could not translate host name "db" to address: Temporary failure in name resolution'),
    of_libpq('connection to server at "db", port 5432 failed: FATAL:  the database system is starting up'),
    GatewayError("http://gateway:8080: connection refused"),
]
REFUSED = [
    redis.AuthenticationError("WRONGPASS invalid username-password pair"),
    redis.exceptions.AuthorizationError("NOAUTH"),
    redis.exceptions.NoPermissionError("NOPERM this user has no permissions to run the 'ping' command"),
    of_libpq('connection to server at "db" failed: FATAL:  password authentication failed for user "ifinu"'),
    of_libpq('connection to server at "db" failed: FATAL:  database "ifinu" does not exist'),
    of_libpq("server does not support SSL, but SSL was required"),
    of_libpq('relation "notifications" does not exist', pgcode="42P01"),
    LedgerUnavailable("there is no such file yet"),
    GatewayError("the key is wrong", status=401),
    BackupFailed("the store is damaged"),
]


@pytest.mark.parametrize("error", AWAY, ids=str)
def test_a_server_that_is_briefly_away_is_retried_and_reported_once(error, capsys):
    ask = Refusing(error, error, error)
    connection.reach(ask)
    assert ask.asked == 4
    assert capsys.readouterr().err.count("No connection yet") == 1


@pytest.mark.parametrize("error", REFUSED, ids=str)
def test_a_server_that_refuses_is_asked_once(error, capsys):
    ask = Refusing(error)
    with pytest.raises(type(error)):
        connection.reach(ask)
    assert (ask.asked, capsys.readouterr().err) == (1, "")


def test_an_untrusted_certificate_is_not_retried_as_an_outage():
    failed = redis.ConnectionError("Error 1 connecting to redis:6379")
    failed.__context__ = ssl.SSLCertVerificationError("certificate verify failed")
    assert not connection.is_away(failed)


def test_a_server_that_stays_away_ends_with_its_own_error(monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE_S", 0)
    with pytest.raises(redis.ConnectionError, match="refused"):
        connection.reach(Refusing(redis.ConnectionError("refused")))


def test_the_deadline_covers_all_servers_together(monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE_S", 0)
    second = Refusing(redis.ConnectionError("second"))
    with pytest.raises(redis.ConnectionError, match="second"):
        connection.reach(Refusing(), second)
    assert second.asked == 1
