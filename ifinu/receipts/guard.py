"""Who may post a webhook: whoever shows the secret that was registered with it."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

import jwt

HEADER = "x-ifinu-secret"  # for a proxy, or a gateway that makes no tokens

_ISSUER = "evolution"  # what the gateway puts in `app`
_CLOCKS_APART_S = 60  # a hook refused is lost for good, so clocks may differ by as much
_BEARER = "bearer "


class Guard:
    """
    Checks the headers of a webhook.

    The gateway signs no body; of a header `jwt_key` it makes `Authorization: Bearer <JWT>`, HS256, for ten minutes.

    Args:
        secrets: Values of that header, any of which will do: the present one, and the one before while it is changed.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets = [secret.encode() for secret in secrets]

    def objection(self, headers: Mapping[str, str]) -> str | None:
        """
        Say why a webhook is refused.

        Args:
            headers: Names in lower case.

        Returns:
            A word for the log, or None when it may pass.
        """
        shown = headers.get(HEADER)
        if shown is not None:
            # Starlette reads headers as Latin-1, which gives back any byte.
            raw = shown.encode("latin-1", "replace")
            return None if any(hmac.compare_digest(raw, secret) for secret in self._secrets) else "wrong_secret"
        authorization = headers.get("authorization", "")
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return "nothing_shown"
        token = authorization[len(_BEARER) :].strip()
        for secret in self._secrets:
            if (objection := _objection_to(token, secret)) != "wrong_secret":
                return objection
        return "wrong_secret"


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
        return "wrong_secret"
    except jwt.PyJWTError:
        return "not_a_token"
    return None if claims.get("app") == _ISSUER else "not_the_gateways"
