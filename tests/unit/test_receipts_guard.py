import base64
import json
import time

import jwt
import pytest

from ifinu.receipts.guard import Guard
from ifinu.simulator.couriers import token as the_gateways_token

SECRET = "a-secret-of-the-tests-that-is-long-enough"
NOW = int(time.time())
CLAIMS = {"iat": NOW, "exp": NOW + 600, "app": "evolution", "action": "webhook"}


def bearer(secret=SECRET, algorithm="HS256", **changes):
    claims = {name: value for name, value in (CLAIMS | changes).items() if value is not None}
    return {"authorization": f"Bearer {jwt.encode(claims, secret, algorithm)}"}


def unsigned(algorithm):
    parts = ({"alg": algorithm, "typ": "JWT"}, CLAIMS)
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return {"authorization": f"Bearer {head}.{body}."}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {the_gateways_token(SECRET, NOW)}"},
        {"authorization": f"bearer {the_gateways_token(SECRET, NOW)}"},
        bearer(),
        bearer(exp=NOW - 30),  # clocks differ
        bearer(iat=NOW + 30),
        {"x-ifinu-secret": SECRET},
    ],
)
def test_the_secret_opens(headers):
    assert Guard(SECRET).objection(headers) is None


@pytest.mark.parametrize(
    ("headers", "objection"),
    [
        ({}, "nothing_shown"),
        ({"authorization": "Basic dXNlcjpwYXNz"}, "nothing_shown"),
        ({"authorization": SECRET}, "nothing_shown"),
        ({"authorization": "Bearer "}, "not_a_token"),
        ({"authorization": f"Bearer {SECRET}"}, "not_a_token"),
        ({"authorization": "Bearer \xff.\xff.\xff"}, "not_a_token"),
        (bearer("another-secret-that-is-just-as-long-as-ours"), "wrong_secret"),
        (bearer(exp=NOW - 120, iat=NOW - 720), "expired"),
        (bearer(iat=NOW + 120), "clock_ahead"),
        (bearer(algorithm="HS512", secret=SECRET * 2), "not_a_token"),
        (bearer(exp=None), "not_a_token"),
        (bearer(iat=None), "not_a_token"),
        (bearer(app=None), "not_the_gateways"),
        (bearer(app="another"), "not_the_gateways"),
        (unsigned("none"), "not_a_token"),
        (unsigned("HS256"), "wrong_secret"),
        ({"x-ifinu-secret": ""}, "wrong_secret"),
        ({"x-ifinu-secret": SECRET[:-1]}, "wrong_secret"),
        ({"x-ifinu-secret": "\xff\u0100"}, "wrong_secret"),
        (bearer() | {"x-ifinu-secret": "wrong"}, "wrong_secret"),
    ],
)
def test_nothing_else_does(headers, objection):
    assert Guard(SECRET).objection(headers) == objection
