"""The payment providers by name: the form of their secrets, how a webhook is proven and read, and what they report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from ifinu.billing.payments import asaas, mercado_pago, signed_events, stripe, woovi
from ifinu.billing.payments.provider_api import ProviderApi
from ifinu.billing.payments.provider_events import PaymentEvent, PaymentRequest
from ifinu.billing.payments.provider_secrets import ProviderSecrets
from ifinu.errors import ConfigurationError

_WEBHOOK_ANSWER_S: Final = 6.0  # a webhook waits for it


class Provider(NamedTuple):
    """
    A provider.

    Attributes:
        secrets: The form of a tenant's secrets.
        refusal: Returns why a webhook is refused, or None.
        read: Reads a webhook; None if the provider's API has to be asked, see `looks_up`.
        looks_up: Reads a webhook that only names a payment.
        api: Base of the API; None if there is none.
        authorization: The header that carries the key, and how its value begins.
        reported: Asks what happened since a time.
    """

    secrets: type[ProviderSecrets]
    refusal: Callable[[Any, PaymentRequest, datetime], str | None]
    read: Callable[[PaymentRequest], PaymentEvent] | None = None
    looks_up: Callable[[PaymentRequest, ProviderApi], PaymentEvent] | None = None
    api: str | None = None
    authorization: tuple[str, str] = ("Authorization", "")
    reported: Callable[[ProviderApi, datetime, datetime], list[PaymentEvent]] | None = None


PROVIDERS: Final[dict[str, Provider]] = {
    signed_events.NAME: Provider(signed_events.SignedSecrets, signed_events.refusal, signed_events.read),
    asaas.NAME: Provider(
        asaas.AsaasSecrets, asaas.refusal, asaas.read,
        api=asaas.API, authorization=("access_token", ""), reported=asaas.reported,
    ),
    stripe.NAME: Provider(
        stripe.StripeSecrets, stripe.refusal, stripe.read,
        api=stripe.API, authorization=("Authorization", "Bearer "), reported=stripe.reported,
    ),
    woovi.NAME: Provider(
        woovi.WooviSecrets, woovi.refusal, woovi.read,
        api=woovi.API, reported=woovi.reported,
    ),
    mercado_pago.NAME: Provider(
        mercado_pago.MercadoPagoSecrets, mercado_pago.refusal, looks_up=mercado_pago.read,
        api=mercado_pago.API, authorization=("Authorization", "Bearer "), reported=mercado_pago.reported,
    ),
}  # fmt: skip
MODELS: Final = {name: provider.secrets for name, provider in PROVIDERS.items()}


def event_of(name: str, secrets: ProviderSecrets, request: PaymentRequest) -> PaymentEvent:
    """
    Read a webhook that was not refused.

    Raises:
        InvalidEvent: The body is not an event of the provider.
        ProviderError: The provider had to be asked, and does not answer.
    """
    provider = PROVIDERS[name]
    if provider.read is not None:
        return provider.read(request)
    assert provider.looks_up is not None  # noqa: S101 - each provider has one of them
    with api_of(name, secrets, pauses_s=(), answer_s=_WEBHOOK_ANSWER_S) as api:
        return provider.looks_up(request, api)


def reported(name: str, secrets: ProviderSecrets, since: datetime, now: datetime) -> list[PaymentEvent]:
    """
    Ask a provider what happened since a time.

    Raises:
        ConfigurationError: The provider has nothing to ask, or the tenant has no key.
        ProviderError: The provider does not answer, or refuses.
    """
    ask = PROVIDERS[name].reported
    if ask is None:
        raise ConfigurationError(f"{name} has no API to ask")
    with api_of(name, secrets) as api:
        return ask(api, since, now)


def api_of(name: str, secrets: ProviderSecrets, **options: Any) -> ProviderApi:
    """
    The API of a provider with a tenant's key.

    Raises:
        ConfigurationError: The tenant has no key.
    """
    provider = PROVIDERS[name]
    if secrets.api_key is None or provider.api is None:
        raise ConfigurationError(f"{name}: the tenant has no api_key in IFINU_PAYMENT_SECRETS_FILE")
    header, begins = provider.authorization
    headers = {header: begins + secrets.api_key.get_secret_value()}
    return ProviderApi(name, secrets.api_url or provider.api, headers, **options)
