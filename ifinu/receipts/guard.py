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
        secret: The value of that header.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

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
            same = hmac.compare_digest(shown.encode("latin-1", "replace"), self._secret)
            return None if same else "wrong_secret"
        authorization = headers.get("authorization", "")
        if authorization[: len(_BEARER)].lower() != _BEARER:
            return "nothing_shown"
        return self._objection_to(authorization[len(_BEARER) :].strip())

    def _objection_to(self, token: str) -> str | None:
        try:
            claims = jwt.decode(
                token,
                self._secret,
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
