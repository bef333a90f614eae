"""
Authentication of webhooks by a secret that is registered at the gateway.

Each instance is registered with a different secret, derived from the configured one: the token of an instance can read
its registration at the gateway, and must not speak for another instance. The gateway's JWT does not name its instance,
so a second header does. The configured secret itself is accepted too, for any instance: from a proxy, a global webhook,
and instances registered before each had a different one.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, unquote

import jwt

HEADER = "x-ifinu-secret"  # from a proxy, or a gateway that makes no JWT
INSTANCE_HEADER = "x-ifinu-instance"

_ISSUER = "evolution"  # the gateway's value of the claim `app`
_CLOCKS_APART_S = 60  # tolerated difference of clocks: a webhook that is refused is lost for good
_BEARER = "bearer "
_WRONG = "wrong_secret"


def secret_of(instance: str, secret: str) -> str:
    """The secret of one instance, derived from the configured one."""
    return hmac.new(secret.encode(), b"ifinu webhook of " + instance.encode(), hashlib.sha256).hexdigest()


def headers_of(instance: str, secret: str) -> dict[str, str]:
    """The headers to register at the gateway with an instance's webhook."""
    return {"jwt_key": secret_of(instance, secret), INSTANCE_HEADER: quote(instance, safe="")}


class AuthResult(NamedTuple):
    """
    The result of checking the headers of a webhook.

    Attributes:
        refusal: Reason for a refusal, as logged; None if the webhook is accepted.
        instance: The only instance whose events the webhook may report; None for any.
    """

    refusal: str | None
    instance: str | None = None


class WebhookAuth:
    """
    Checks the headers of a webhook.

    The gateway signs no body. It replaces a header `jwt_key` by `Authorization: Bearer <JWT>`, HS256, valid for ten
    minutes.

    Args:
        secrets: The configured secrets, each of which is accepted: the present one, and during a change the one before.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = secrets

    def check(self, headers: Mapping[str, str]) -> AuthResult:
        """
        Check a webhook before its body is read.

        Args:
            headers: Names in lower case.
        """
        instance = unquote(headers[INSTANCE_HEADER]) if INSTANCE_HEADER in headers else None
        if instance is not None:
            own = [secret_of(instance, secret) for secret in self._secrets]
            if (refusal := _refusal(headers, own)) != _WRONG:
                return AuthResult(refusal, instance)
        return AuthResult(_refusal(headers, self._secrets))


def _refusal(headers: Mapping[str, str], secrets: tuple[str, ...] | list[str]) -> str | None:
    keys = [secret.encode() for secret in secrets]
    plain = headers.get(HEADER)
    if plain is not None:
        # Starlette decodes headers as Latin-1, which restores any byte.
        raw = plain.encode("latin-1", "replace")
        return None if any(hmac.compare_digest(raw, key) for key in keys) else _WRONG
    authorization = headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() != _BEARER:
        return "nothing_shown"
    token = authorization[len(_BEARER) :].strip()
    for key in keys:
        if (refusal := _refusal_of_token(token, key)) != _WRONG:
            return refusal
    return _WRONG


def _refusal_of_token(token: str, secret: bytes) -> str | None:
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
