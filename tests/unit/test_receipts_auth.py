import base64
import json
import time

import jwt
import pytest

from ifinu.receipts.auth import WebhookAuth
from ifinu.simulator.couriers import token as the_gateways_token

SECRET = "a-secret-of-the-tests-that-is-long-enough"


def now():
    return int(time.time())  # when the test runs, which may be long after its collection


def claimed():
    return {"iat": now(), "exp": now() + 600, "app": "evolution", "action": "webhook"}


def bearer(secret=SECRET, algorithm="HS256", **changes):
    claims = {name: value for name, value in (claimed() | changes).items() if value is not None}
    return {"authorization": f"Bearer {jwt.encode(claims, secret, algorithm)}"}


def unsigned(algorithm):
    parts = ({"alg": algorithm, "typ": "JWT"}, claimed())
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return {"authorization": f"Bearer {head}.{body}."}


@pytest.mark.parametrize(
    "headers",
    [
        lambda: {"authorization": f"Bearer {the_gateways_token(SECRET, now())}"},
        lambda: {"authorization": f"bearer {the_gateways_token(SECRET, now())}"},
        lambda: bearer(),
        lambda: bearer(exp=now() - 30),  # clocks differ
        lambda: bearer(iat=now() + 30),
        lambda: {"x-ifinu-secret": SECRET},
    ],
)
def test_the_secret_grants_access(headers):
    assert WebhookAuth(SECRET).check(headers()).refusal is None
    assert WebhookAuth("the-secret-that-came-after-it-just-as-long", SECRET).check(headers()).refusal is None


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        (dict, "nothing_shown"),
        (lambda: {"authorization": "Basic dXNlcjpwYXNz"}, "nothing_shown"),
        (lambda: {"authorization": SECRET}, "nothing_shown"),
        (lambda: {"authorization": "Bearer "}, "not_a_token"),
        (lambda: {"authorization": f"Bearer {SECRET}"}, "not_a_token"),
        (lambda: {"authorization": "Bearer \xff.\xff.\xff"}, "not_a_token"),
        (lambda: bearer("another-secret-that-is-just-as-long-as-ours"), "wrong_secret"),
        (lambda: bearer(exp=now() - 120, iat=now() - 720), "expired"),
        (lambda: bearer(iat=now() + 120), "clock_ahead"),
        (lambda: bearer(algorithm="HS512", secret=SECRET * 2), "not_a_token"),
        (lambda: bearer(exp=None), "not_a_token"),
        (lambda: bearer(iat=None), "not_a_token"),
        (lambda: bearer(app=None), "not_the_gateways"),
        (lambda: bearer(app="another"), "not_the_gateways"),
        (lambda: unsigned("none"), "not_a_token"),
        (lambda: unsigned("HS256"), "wrong_secret"),
        (lambda: {"x-ifinu-secret": ""}, "wrong_secret"),
        (lambda: {"x-ifinu-secret": SECRET[:-1]}, "wrong_secret"),
        (lambda: {"x-ifinu-secret": "\xff\u0100"}, "wrong_secret"),
        (lambda: bearer() | {"x-ifinu-secret": "wrong"}, "wrong_secret"),
    ],
)
def test_nothing_but_the_secret_grants_access(headers, refusal):
    assert WebhookAuth(SECRET).check(headers()).refusal == refusal
    assert WebhookAuth("the-secret-that-came-after-it-just-as-long", SECRET).check(headers()).refusal == refusal
