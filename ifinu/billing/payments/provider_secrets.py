"""
The secrets of payment providers, by tenant, in the file that `IFINU_PAYMENT_SECRETS_FILE` names.

    {"academia-fit": {"asaas": {"tokens": ["…"], "api_key": "…"}, "stripe": {"secrets": ["whsec_…"]}}}

The file is read again once it has changed, so that a new tenant needs no restart. A faulty new file changes nothing.
"""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from ifinu import urls
from ifinu.errors import ConfigurationError

_LARGEST_BYTES: Final = 10_000_000

log = structlog.get_logger()
Model = TypeVar("Model", bound="ProviderSecrets")


class ProviderSecrets(BaseModel):
    """
    What one tenant has at one provider.

    Attributes:
        api_key: Key of the provider's API, for `ifinu pay reconcile`.
        api_url: The API's address, if it is not the usual one: a sandbox, or a proxy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr | None = None
    api_url: str | None = None

    def model_post_init(self, _: Any) -> None:
        if self.api_url is not None and not urls.is_url(self.api_url, ("http", "https")):
            raise ValueError("api_url must be http://host:port or https://host")


def plain(secrets: Sequence[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


class SecretsFile:
    """
    The secrets file.

    Args:
        path: As `IFINU_PAYMENT_SECRETS_FILE`.
        models: The form of each provider's secrets.

    Raises:
        ConfigurationError: The file cannot be used; the message names the place, and no secret.
    """

    def __init__(self, path: Path, models: Mapping[str, type[ProviderSecrets]]) -> None:
        self._path = path
        self._models = models
        self._lock = threading.Lock()
        self._seen = _version(path)
        self._secrets = _read(path, models)

    def of(self, provider: str, tenant: str) -> ProviderSecrets | None:
        """The secrets of a tenant at a provider; None if there are none."""
        self._refresh()
        return self._secrets.get((tenant, provider))

    def tenants(self, provider: str) -> list[str]:
        """The tenants that have secrets for a provider, sorted."""
        self._refresh()
        return sorted(tenant for tenant, name in self._secrets if name == provider)

    def _refresh(self) -> None:
        with self._lock:
            version = _version(self._path)
            if version == self._seen:
                return
            self._seen = version
            try:
                self._secrets = _read(self._path, self._models)
            except ConfigurationError as exc:
                log.error("ifinu.payment_secrets.not_read", error=str(exc))
            else:
                log.info("ifinu.payment_secrets.read", count=len(self._secrets))


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path, models: Mapping[str, type[ProviderSecrets]]) -> dict[tuple[str, str], ProviderSecrets]:
    try:
        mode = path.stat().st_mode
        if mode & stat.S_IWOTH:
            raise ConfigurationError(f"{path}: every user of this machine may change it; run: chmod o-w {path}")
        if mode & stat.S_IROTH:
            log.warning("ifinu.payment_secrets.exposed", hint=f"every user may read it; run: chmod o-r {path}")
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror}") from exc
    if len(content) > _LARGEST_BYTES:
        raise ConfigurationError(f"{path}: is larger than {_LARGEST_BYTES} bytes")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path}: is not JSON") from None
    if not isinstance(document, dict) or not all(isinstance(entry, dict) for entry in document.values()):
        raise ConfigurationError(f"{path}: is not an object of tenants, each with an object of providers")
    secrets = {}
    for tenant, entry in document.items():
        for provider, fields in entry.items():
            if provider not in models:
                known = ", ".join(sorted(models))
                raise ConfigurationError(f"{path}: {tenant}: there is no provider {provider!r}; known: {known}")
            try:
                secrets[tenant, provider] = models[provider].model_validate(fields)
            except ValidationError as exc:
                first = exc.errors(include_input=False, include_url=False)[0]
                where = ".".join(str(one) for one in (tenant, provider, *first["loc"]))
                raise ConfigurationError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return secrets
