"""
Signatures of webhooks. Each check compares in constant time and returns the reason for a refusal, or None.

A reason is one stable word: `nothing_shown`, `wrong_secret`, `not_a_signature`, `expired` or `clock_ahead`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

NOTHING, WRONG, MALFORMED = "nothing_shown", "wrong_secret", "not_a_signature"
TOLERANCE_S = 300
_MOST_SIGNATURES = 10  # in one header; Stripe sends one for each secret in use


def token(shown: str | None, tokens: Sequence[str]) -> str | None:
    """Check a token that is sent as it is."""
    if not shown:
        return NOTHING
    raw = _bytes(shown)
    # Every token is compared, so that the time does not say which one is near.
    return None if sum(hmac.compare_digest(raw, one.encode()) for one in tokens) else WRONG


def parts(header: str) -> dict[str, list[str]]:
    """Split `t=1,v1=a,v1=b` into its values by name."""
    found: dict[str, list[str]] = {}
    for one in header.split(",")[: 2 * _MOST_SIGNATURES]:
        name, separator, value = one.strip().partition("=")
        if separator:
            found.setdefault(name.strip(), []).append(value.strip())
    return found


def timed(header: str | None, body: bytes, secrets: Sequence[str], now: datetime) -> str | None:
    """Check `t=<seconds>,v1=<hex>[,v1=…]`, where v1 is the HMAC-SHA256 of `<t>.<body>`."""
    if not header:
        return NOTHING
    found = parts(header)
    at, shown = found.get("t", [""])[0], found.get("v1", [])[:_MOST_SIGNATURES]
    if not (at.isascii() and at.isdecimal() and len(at) <= 10) or not shown:
        return MALFORMED
    signed = at.encode() + b"." + body
    if (refusal := hexadecimal(shown, signed, secrets)) is not None:
        return refusal
    age_s = now.timestamp() - int(at)  # after the signature: a forged time is a forgery
    if age_s > TOLERANCE_S:
        return "expired"
    return "clock_ahead" if age_s < -TOLERANCE_S else None


def hexadecimal(shown: Sequence[str], signed: bytes, secrets: Sequence[str]) -> str | None:
    """Check that one of the values is the HMAC-SHA256 of the bytes by one of the secrets, in hexadecimal."""
    return _any_equal(
        shown, signed, secrets, lambda key, data: hmac.new(key, data, hashlib.sha256).hexdigest().encode()
    )


def sha1(shown: str | None, body: bytes, secrets: Sequence[str]) -> str | None:
    """Check an HMAC-SHA1 in base64, which Woovi's older webhooks have."""
    if not shown:
        return NOTHING
    return _any_equal(
        [shown.strip()], body, secrets, lambda key, data: base64.b64encode(hmac.new(key, data, hashlib.sha1).digest())
    )


def by_public_key(shown: str | None, body: bytes, keys: Sequence[str]) -> str | None:
    """Check an RSA signature (PKCS #1 v1.5 with SHA-256) in base64 by public keys in PEM."""
    if not shown:
        return NOTHING
    try:
        signature = base64.b64decode(shown.strip(), validate=True)
    except (binascii.Error, ValueError):
        return MALFORMED
    for key in keys:
        try:
            public_key(key).verify(signature, body, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            continue
        return None
    return WRONG


@functools.lru_cache(maxsize=32)
def public_key(pem: str) -> rsa.RSAPublicKey:
    """
    Read a public key.

    Raises:
        ValueError: The text is not an RSA public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError:
        raise ValueError("is not a public key in PEM") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("is not an RSA key")
    return key


def _any_equal(
    shown: Sequence[str], signed: bytes, secrets: Sequence[str], sign: Callable[[bytes, bytes], bytes]
) -> str | None:
    right = [sign(secret.encode(), signed) for secret in secrets]
    given = [_bytes(one) for one in shown]
    return None if sum(hmac.compare_digest(one, each) for one in given for each in right) else WRONG


def _bytes(shown: str) -> bytes:
    # Starlette decodes headers as Latin-1, which restores any byte.
    return shown.encode("latin-1", "replace")
