from __future__ import annotations

import ssl
from pathlib import Path

import kombu
import pytest
import redis
import redis.asyncio
import sqlalchemy

from ifinu import urls

PEM = Path(__file__).parents[1] / "integration" / "gateway_tls.pem"  # a certificate and its key


@pytest.mark.parametrize("checks", ["CERT_NONE", "none", "None", "CERT_REQUIRED", "required", "optional"])
@pytest.mark.parametrize("hostname", ["", "&ssl_check_hostname=False", "&ssl_check_hostname=1"])
def test_every_client_reads_the_options_of_tls_alike(checks: str, hostname: str):
    given = f"rediss://u:p%23@fila:6380/2?ssl_cert_reqs={checks}&ssl_ca_certs={PEM}&ssl_certfile={PEM}{hostname}"
    url = urls.redis_url(given)
    plain, asyncio = redis.ConnectionPool.from_url(url), redis.asyncio.ConnectionPool.from_url(url)
    of_kombu = kombu.Connection(url)
    made = plain.connection_class(**plain.connection_kwargs)
    for one in (redis.SSLConnection(**of_kombu.ssl), asyncio.connection_class(**asyncio.connection_kwargs)):
        assert (one.cert_reqs, one.check_hostname) == (made.cert_reqs, made.check_hostname)
        assert (one.ca_certs, one.certfile) == (made.ca_certs, made.certfile) == (str(PEM), str(PEM))
    assert made.check_hostname == (made.cert_reqs is not ssl.CERT_NONE and "False" not in hostname)
    read = of_kombu.hostname, of_kombu.port, int(of_kombu.virtual_host), of_kombu.userid, of_kombu.password
    assert read == (made.host, made.port, made.db, made.username, made.password) == ("fila", 6380, 2, "u", "p#")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *[
            (f"rediss://fila?{option}=3", f"has the option {option}: ")
            for option in (
                "socket_timeout", "socket_connect_timeout", "socket_keepalive", "health_check_interval", "timeout",
                "max_connections", "retry_on_timeout", "protocol", "client_name", "decode_responses", "encoding",
                "ssl_min_version", "ssl_ciphers", "ssl_password", "ssl_ca_data", "db", "username", "password",
                "virtual_host", "transport",
            )
        ],
        ("rediss://fila?x-y=hush", "has the option one that is no word: "),
        ("redis://fila?ssl_cert_reqs=none", "has the option ssl_cert_reqs without TLS: write rediss://"),
        ("rediss://fila?ssl_cert_reqs=hush", "has an ssl_cert_reqs that is not one of required, optional, none"),
        ("rediss://fila?ssl_check_hostname=hush", "has an ssl_check_hostname that is not true or false"),
        ("rediss://fila?ssl_cert_reqs=none&ssl_cert_reqs=none", "has the option ssl_cert_reqs twice"),
        ("rediss://fila?ssl_ca_certs=/no/such.pem", "ssl_ca_certs=/no/such.pem: No such file or directory"),
        ("rediss://fila?ssl_ca_certs=/etc", "ssl_ca_certs=/etc: Is a directory"),
        ("rediss://fila?ssl_ca_certs=/etc/hostname", "ssl_ca_certs=/etc/hostname: no certificates in PEM"),
        ("rediss://fila?ssl_certfile=/etc/hostname", "ssl_certfile=/etc/hostname: no certificate in PEM with its key"),
        ("rediss://fila?ssl_keyfile=/etc/hostname", "ssl_keyfile without ssl_certfile"),
        ("rediss://fila?ssl_ca_path=/no/such", "ssl_ca_path=/no/such: no such folder"),
        ("redis://a:1,b:2/0", "names several servers"),
        ("a:1,b:2", "names several servers"),
        ("redis://a:1/0;redis://b:2/0", "names several servers"),
        ("redis+cluster://a:1", "names several servers"),
        ("sentinel://a:26379/mymaster", "names a Sentinel"),
        ("redis+sentinel://a:26379/mymaster", "names a Sentinel"),
        ("unix:///run/redis.sock", "names a unix socket"),
        ("redis+socket:///run/redis.sock", "names a unix socket"),
        ("redis://fila/0#hush", "must be redis://"),
    ],
)  # fmt: skip
def test_an_option_that_not_all_clients_share_is_refused_by_name(url: str, message: str):
    with pytest.raises(ValueError, match=r"^(has|names|must)") as caught:
        urls.redis_url(url)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("password", ["a;redis://b", "p@ss", "a,b", "%2F", "é"])
def test_a_password_of_any_characters_survives_every_client(password: str):
    url = urls.redis_url(urls.with_password("redis://fila:6379/0", password, "X"))
    assert kombu.Connection(url).password == password
    assert redis.ConnectionPool.from_url(url).connection_kwargs["password"] == password


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("redis://fila", "fila:6379", True),
        ("redis://FILA:6379/0", "redis://fila", True),
        ("redis://:p%23@fila/1", "redis://default:p%23@fila:6379/1", True),
        ("rediss://fila?ssl_cert_reqs=CERT_NONE", "rediss://fila/0?ssl_cert_reqs=none", True),
        ("redis://fila", "rediss://fila", False),
        ("redis://fila", "redis://fila/1", False),
        ("redis://fila", "redis://fila:6380", False),
        ("redis://:a@fila", "redis://:b@fila", False),
        ("redis://fila", "amqp://fila", False),
        ("redis://fila", "memory://", False),
    ],
)
def test_whether_two_urls_say_the_same(one: str, other: str, same: bool):
    assert urls.is_same_redis(one, other) is same


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hush@fila:6380/2?ssl_ca_certs=hush", "redis://fila:6380/2"),
        ("amqp://u:hush@[::1]/v", "amqp://[::1]/v"),
        ("hush", "something that is no URL"),
        ("redis://fila:hush", "something that is no URL"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str):
    assert urls.shown(url) == shown


@pytest.mark.parametrize(
    ("url", "host", "port", "others"),
    [
        ("postgresql://u:p%40@a:1,b:2/d", "a,b", "1,2", {"target_session_attrs": "read-write", "password": "p@"}),
        ("postgres://u:p/q@a,[::1]:3/d?sslmode=require", "a,::1", "5432,3", {"sslmode": "require", "password": "p/q"}),
        ("postgresql://a:1,b:2/d?target_session_attrs=any", "a,b", "1,2", {"target_session_attrs": "any"}),
    ],
)
def test_several_hosts_of_postgresql_reach_libpq(url: str, host: str, port: str, others: dict[str, str]):
    made = sqlalchemy.make_url(urls.postgresql(url))
    _, arguments = sqlalchemy.create_engine(made).dialect.create_connect_args(made)
    assert (arguments["host"], arguments["port"], arguments["dbname"]) == (host, port, "d")
    assert others.items() <= arguments.items()


@pytest.mark.parametrize("url", ["postgresql://a:x/d", "postgresql://a:1,b:x/d", "postgresql://[::1/d"])
def test_a_malformed_postgresql_host_is_refused(url: str):
    with pytest.raises(ValueError, match="has a host that is not host or host:port"):
        urls.postgresql(url)
