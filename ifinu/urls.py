"""
The URLs of Redis and PostgreSQL, in a normal form that all our clients read alike.

Kombu, redis-py and redis-py's asyncio client each parse a Redis URL differently: an option that one accepts, another
ignores or fails on. This module parses a URL once and writes it in a form that they share. It refuses every other
option by name.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

_REDIS = "must be redis://host:port/db, rediss://host:port/db or host:port, with a password's special characters as %XX"
_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_CHECKS = ("required", "optional", "none")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")
_INSTEAD = {
    "db": "write the number of the database at the end of the path: redis://host:6379/3",
    "username": "write it before the host: redis://user:password@host",
    "password": "write it before the host, or into IFINU_REDIS_PASSWORD",
    "virtual_host": "write the number of the database at the end of the path: redis://host:6379/3",
}
_PORT = 6379
_POSTGRES = re.compile(r"([^:/@]*(?::[^@]*)?@)?([^/?]*)(.*)", re.DOTALL)  # as SQLAlchemy splits a URL
_POSTGRES_PORT = 5432


def redis_url(text: str) -> str:
    """
    Normalise a Redis URL, or a bare `host:port`.

    Raises:
        ValueError: The URL is wrong. The message never repeats it, since any part of it may be a password.
    """
    text = text.strip()
    text = text if "://" in text else f"redis://{text}/0"
    scheme, _, rest = text.partition("://")
    if problem := _not_one_server(scheme, rest):
        raise ValueError(problem)
    parts = _split(text, ("redis", "rediss"))
    if parts is None or parts.fragment or not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError(_REDIS)
    options = dict(_redis_options(parts))
    user, password = (quote(unquote(part or ""), safe="") for part in (parts.username, parts.password))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    query = f"?{urlencode(options, safe='/')}" if options else ""
    return f"{parts.scheme}://{login}{parts.netloc.rpartition('@')[2]}/{int(parts.path.strip('/') or 0)}{query}"


def with_password(url: str, password: str | None, variable: str) -> str:
    """
    Add a password to a URL; None adds nothing.

    Raises:
        ValueError: The URL already has a password; `variable` names the setting of the other one.
    """
    if password is None:
        return url
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError(f"has a password already: take it out, or unset {variable}")
    user, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user if at else ''}:{quote(password, safe='')}@{host}").geturl()


def is_url(text: str, schemes: tuple[str, ...]) -> bool:
    """Whether a text is a URL of one of these schemes, with a host and a valid port."""
    return _split(text, schemes) is not None


def postgresql(text: str, also: str = "") -> str:
    """
    Normalise a PostgreSQL URL for SQLAlchemy and psycopg2. Of several hosts (`a:5432,b:5432`) libpq uses the primary.

    Args:
        also: Other accepted forms, for the error.

    Raises:
        ValueError: The URL is wrong.
    """
    scheme, separator, rest = text.strip().partition("://")
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg2") or not separator:
        raise ValueError(f"must be postgresql://user:password@host/database{also}")
    login, hosts, path = _POSTGRES.fullmatch(rest).groups()  # type: ignore[union-attr]  # it matches any text
    places = [_place(host) for host in hosts.split(",")] if hosts else []
    if len(places) < 2:
        return f"postgresql+psycopg2://{rest}"
    path, _, query = path.partition("?")
    options = dict(parse_qsl(query))
    options["host"] = ",".join(host for host, _ in places)
    options["port"] = ",".join(port for _, port in places)
    options.setdefault("target_session_attrs", "read-write")
    return f"postgresql+psycopg2://{login or ''}{path or '/'}?{urlencode(options, safe=',:/')}"


def shown(url: str) -> str:
    """The server of a URL, without login and options, for people to read."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "something that is no URL"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}" if parts.scheme else "something that is no URL"


def is_same_redis(one: str, other: str) -> bool:
    """Whether two URLs mean the same Redis, login and options, however they are spelled."""
    try:
        return _essence(redis_url(one)) == _essence(redis_url(other))
    except ValueError:
        return False


def _essence(url: str) -> tuple[object, ...]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname,
        parts.port or _PORT,
        parts.path,
        parts.username or "default",
        parts.password,
        (sorted(parse_qsl(parts.query))),
    )


def _split(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    try:
        parts = urlsplit(text)
        return parts if parts.scheme in schemes and parts.hostname and parts.port != 0 else None
    except ValueError:  # an invalid port, or an incomplete IPv6 address
        return None


def _not_one_server(scheme: str, rest: str) -> str:
    """Why a URL names something other than one server with a port; empty when it does not."""
    words = scheme.lower()
    if "unix" in words or "socket" in words:
        return "names a unix socket; ifinu reaches Redis by host and port: redis://host:6379/0"
    if "sentinel" in words:
        return (
            "names a Sentinel, which ifinu does not ask: name the primary itself, "
            "or a Service or proxy that leads to it: redis://host:6379/0"
        )
    hosts = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if "cluster" in words or ("redis" in words and re.search(r"[,;]", hosts)) or re.search(r";\s*rediss?://", rest):
        return (
            "names several servers; a queue is on one, since its messages move between keys in one step: "
            "name the primary, or a Service or proxy that leads to it: redis://host:6379/0"
        )
    return ""


def _redis_options(parts: SplitResult) -> Iterator[tuple[str, str]]:
    given: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            label = name if re.fullmatch(r"\w{1,40}", name, re.ASCII) else "one that is no word"
            instead = _INSTEAD.get(name, f"leave it out; ifinu takes {', '.join(_OPTIONS)}")
            raise ValueError(f"has the option {label}: {instead}")
        if name in given:
            raise ValueError(f"has the option {name} twice")
        given[name] = value
    if given and parts.scheme != "rediss":
        raise ValueError(f"has the option {next(iter(given))} without TLS: write rediss://")
    if "ssl_cert_reqs" in given:
        value = given["ssl_cert_reqs"].lower().removeprefix("cert_")
        if value not in _CHECKS:
            raise ValueError(f"has an ssl_cert_reqs that is not one of {', '.join(_CHECKS)}")
        given["ssl_cert_reqs"] = value
    if "ssl_check_hostname" in given:
        value = given["ssl_check_hostname"].lower()
        if value not in (*_YES, *_NO):
            raise ValueError("has an ssl_check_hostname that is not true or false")
        given["ssl_check_hostname"] = "true" if value in _YES else "false"
    _check_files(given)
    yield from given.items()


def _check_files(given: dict[str, str]) -> None:
    """Read certificates and keys once, here: a client would find a bad one only while it connects."""
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in given:
            try:
                with Path(given[name]).open("rb"):
                    pass
            except OSError as exc:
                raise ValueError(f"has the option {name}={given[name]}: {exc.strerror}") from None
    if "ssl_ca_path" in given and not Path(given["ssl_ca_path"]).is_dir():
        raise ValueError(f"has the option ssl_ca_path={given['ssl_ca_path']}: no such folder")
    if "ssl_keyfile" in given and "ssl_certfile" not in given:
        raise ValueError("has the option ssl_keyfile without ssl_certfile")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if "ssl_ca_certs" in given:
        try:
            context.load_verify_locations(given["ssl_ca_certs"])
        except ssl.SSLError:
            raise ValueError(f"has the option ssl_ca_certs={given['ssl_ca_certs']}: no certificates in PEM") from None
    if "ssl_certfile" in given:
        try:
            context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), password="")
        except (ssl.SSLError, ValueError):
            raise ValueError(
                f"has the option ssl_certfile={given['ssl_certfile']}: "
                "no certificate in PEM with its key, or the key has a password"
            ) from None


def _place(text: str) -> tuple[str, str]:
    """Host and port of one of several servers; the default port is PostgreSQL's."""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::(\d+))?|([^:\[\]\s]+)(?::(\d+))?", text.strip())
    if match is None:
        raise ValueError("has a host that is not host or host:port; several are written host1:5432,host2:5432")
    return match[1] or match[3], match[2] or match[4] or str(_POSTGRES_PORT)
