"""The file of the payment providers' secrets."""

import json
import os

import pytest
import structlog
from payments import SECRET, SECRETS, WOOVI_PEM

from ifinu.billing.payments.provider_secrets import SecretsFile
from ifinu.billing.payments.providers import MODELS
from ifinu.errors import ConfigurationError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "payments.json"


def written(path, document, mode=0o600):
    path.write_text(document if isinstance(document, str) else json.dumps(document), "utf-8")
    path.chmod(mode)
    return path


def test_each_tenant_has_its_own(path):
    file = SecretsFile(written(path, {"u1": SECRETS, "u2": {"stripe": {"secrets": ["whsec_2"]}}}), MODELS)
    assert file.of("stripe", "u2").secrets[0].get_secret_value() == "whsec_2"
    assert file.of("asaas", "u2") is None
    assert file.of("stripe", "u3") is None
    assert file.tenants("stripe") == ["u1", "u2"]
    assert SECRET not in repr(file.of("asaas", "u1"))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ([], "is not an object of tenants, each with an object of providers"),
        ({"u1": []}, "is not an object of tenants, each with an object of providers"),
        ({"u1": {"paypal": {}}}, "u1: there is no provider 'paypal'; known: asaas, generic, mercado_pago, "),
        ({"u1": {"asaas": {}}}, "u1.asaas.tokens: Field required"),
        ({"u1": {"asaas": {"tokens": []}}}, "u1.asaas.tokens: List should have at least 1 item"),
        ({"u1": {"asaas": {"tokens": ["hush"], "tokn": "hush"}}}, "u1.asaas.tokn: Extra inputs are not permitted"),
        ({"u1": {"stripe": {"secrets": ["hush"], "api_url": "hush"}}}, "u1.stripe: api_url must be http://host:port"),
        ({"u1": {"woovi": {}}}, "u1.woovi: needs companies, authorizations or hmac_secrets"),
        ({"u1": {"woovi": {"companies": ["1"], "public_keys": ["hush"]}}}, "public_keys: is not a public key in PEM"),
        ({"u1": {"mercado_pago": {"secrets": ["hush"]}}}, "u1.mercado_pago.api_key: Field required"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_named_without_its_secrets(path, document, reason):
    with pytest.raises(ConfigurationError) as caught:
        SecretsFile(written(path, document), MODELS)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_missing_file_is_named(path):
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        SecretsFile(path, MODELS)


def test_a_file_that_everybody_may_change_is_refused(path):
    with pytest.raises(ConfigurationError, match="chmod o-w"):
        SecretsFile(written(path, {}, 0o602), MODELS)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_file_that_everybody_may_read_is_reported(path, mode, warned):
    with structlog.testing.capture_logs() as lines:
        SecretsFile(written(path, {}, mode), MODELS)
    assert [line["event"] for line in lines] == ["ifinu.payment_secrets.exposed"] * warned


def test_a_changed_file_is_read_again_and_a_faulty_one_is_not(path):
    file = SecretsFile(written(path, {"u1": SECRETS}), MODELS)
    os.utime(written(path, {"u1": SECRETS, "u2": SECRETS}), (1, 1))
    assert file.of("woovi", "u2").public_keys == (WOOVI_PEM,)
    os.utime(written(path, "{"), (2, 2))
    with structlog.testing.capture_logs() as lines:
        assert file.of("woovi", "u2") is not None
        assert file.of("woovi", "u2") is not None
    assert [line["event"] for line in lines] == ["ifinu.payment_secrets.not_read"]
    path.unlink()
    assert file.of("woovi", "u2") is not None
    written(path, {})
    assert file.of("woovi", "u2") is None
