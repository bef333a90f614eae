"""
Who may post a webhook: whoever shows the secret that was registered with it.

Each instance is registered with a secret of its own, which follows from the one that was set: the token of an instance
reads what is registered for it at the gateway, and must not speak for another instance. The gateway's token does not
say which instance shows it, so a header beside it does. The secret that was set is taken as well, for any instance:
from a proxy, a global webhook, and instances that were registered before each had its own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

import jwt

HEADER = "x-ifinu-secret"  # for a proxy, or a gateway that makes no tokens
INSTANCE_HEADER = "x-ifinu-instance"

_ISSUER = "evolution"  # what the gateway puts in `app`
_CLOCKS_APART_S = 60  # a hook refused is lost for good, so clocks may differ by as much
_BEARER = "bearer "
_WRONG = "wrong_secret"


def secret_of(instance: str, secret: str) -> str:
    """The secret of one instance, which follows from the one that was set."""
    return hmac.new(secret.encode(), b"ifinu webhook of " + instance.encode(), hashlib.sha256).hexdigest()


def headers_of(instance: str, secret: str) -> dict[str, str]:
    """What is registered at the gateway beside the URL of an instance's webhook."""
    return {"jwt_key": secret_of(instance, secret), INSTANCE_HEADER: quote(instance, safe="")}


class Shown(NamedTuple):
    """
    What the headers of a webhook show.

    Attributes:
        objection: Why it is refused, a word for the log; None when it may pass.
        instance: The only one that it may speak for; None for any.
    """

    objection: str | None
    instance: str | None = None


class WebhookAuth:
    """
    Checks the headers of a webhook.

    The gateway signs no body; of a header `jwt_key` it makes `Authorization: Bearer <JWT>`, HS256, for ten minutes.

    Args:
        secrets: As they were set, any of which will do: the present one, and the one before while it is changed.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    def check(self, headers: Mapping[str, str]) -> Shown:
        """
        Check a webhook before its body is read.

        Args:
            headers: Names in lower case.
        """
        instance = unquote(headers[INSTANCE_HEADER]) if INSTANCE_HEADER in headers else None
        if instance is not None:
            own = [secret_of(instance, secret) for secret in self._secrets]
            if (objection := _objection(headers, own)) != _WRONG:
                return Shown(objection, instance)
        return Shown(_objection(headers, self._secrets))


def _objection(headers: Mapping[str, str], secrets: tuple[str, ...] | list[str]) -> str | None:
    keys = [secret.encode() for secret in secrets]
    shown = headers.get(HEADER)
    if shown is not None:
        # Starlette reads headers as Latin-1, which gives back any byte.
        raw = shown.encode("latin-1", "replace")
        return None if any(hmac.compare_digest(raw, key) for key in keys) else _WRONG
    authorization = headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() != _BEARER:
        return "nothing_shown"
    token = authorization[len(_BEARER) :].strip()
    for key in keys:
        if (objection := _objection_to(token, key)) != _WRONG:
            return objection
    return _WRONG


def _objection_to(token: str, secret: bytes) -> str | None:
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=["HS256"],
            options={"require": ["iat", "exp"]},
            leeway=_CLOCKS_APART_S,
        )
    except jwt.ExpiredSignatureError:
        return "expired"
    except jwt.ImmatureSignatureError:
        return "clock_ahead"
    except jwt.InvalidSignatureError:
        return _WRONG
    except jwt.PyJWTError:
        return "not_a_token"
    return None if claims.get("app") == _ISSUER else "not_the_gateways"
