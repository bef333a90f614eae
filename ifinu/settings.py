"""
The one reader of the environment.

Every setting is `IFINU_<NAME>`; an empty one counts as unset. A secret may come from a file instead, which
`IFINU_<NAME>_FILE` names. A few names that deployments already use are accepted as aliases. An unknown
`IFINU_*` is refused, since a typo that is ignored is worse than one that is reported.
"""

from __future__ import annotations

import enum
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from ifinu import phone, urls
from ifinu.errors import ConfigurationError

PREFIX = "IFINU_"
# Celery's variables for a broker, and what else sets each.
_CELERY_BROKER = {
    "CELERY_BROKER_URL": " (or celery -b, or BROKER_URL)",
    "CELERY_BROKER_READ_URL": "",
    "CELERY_BROKER_WRITE_URL": "",
}
_RATE = re.compile(r"^(?P<count>\d+(?:\.\d+)?)(?:/(?P<per>[smh]))?$", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class OnUnknown(enum.StrEnum):
    """The choices for a message that may have been sent and that the gateway does not have."""

    RESEND_ONCE = "resend_once"  # send it once more; a second time it is held
    HOLD = "hold"  # a person decides: `ifinu unknown`


class Numbers(enum.StrEnum):
    """The choices for an instance that is not registered."""

    OPEN = "open"  # it sends at the worker's pace alone
    REGISTERED = "registered"  # it does not send: its messages are dead letters


class LogFormat(enum.StrEnum):
    """How log lines look."""

    AUTO = "auto"  # console on a terminal, json elsewhere
    CONSOLE = "console"
    JSON = "json"


def rate_per_s(limit: str) -> float:
    """
    Read Celery's way to write a rate.

    Args:
        limit: `50/s`, `3000/m`, `100/h`, or a bare number per second.

    Returns:
        Messages per second.

    Raises:
        ValueError: The text is not such a rate, or is zero.
    """
    match = _RATE.match(limit.strip())
    if match is None or float(match["count"]) <= 0:
        raise ValueError(f"{limit!r} is not a rate; write it as 50/s, 3000/m or 100/h")
    return float(match["count"]) / _SECONDS[match["per"] or "s"]


def _blank_is_unset(value: object) -> object:
    return value.strip() or None if isinstance(value, str) else value


def _with_password(url: SecretStr, password: SecretStr | None, variable: str) -> SecretStr:
    return SecretStr(
        urls.with_password(url.get_secret_value(), None if password is None else password.get_secret_value(), variable)
    )


def _postgresql(url: SecretStr, password: SecretStr | None, variable: str, also: str = "") -> SecretStr:
    return _with_password(SecretStr(urls.postgresql(url.get_secret_value(), also)), password, variable)


_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Optional = BeforeValidator(_blank_is_unset)


class Settings(BaseSettings):
    """Everything that can be set, each with its default and what it does."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # A password stands before its URL: the URL's validator puts it in.
    redis_password: Annotated[
        SecretStr | None,
        _Optional,
        Field(description="Password of the queue, if `IFINU_REDIS_URL` has none; any characters, not percent-encoded."),
    ] = None
    redis_url: Annotated[
        SecretStr,
        Field(
            validate_default=True,
            validation_alias=AliasChoices("IFINU_REDIS_URL", "REDIS_ADDR"),
            description="The queue: `redis://[user:password@]host:port/db` or `rediss://…`, with options "
            "of TLS (`?ssl_ca_certs=…`). `REDIS_ADDR` may be a bare `host:port`.",
        ),
    ] = SecretStr("redis://localhost:6379/0")
    evolution_url: Annotated[
        str,
        Field(
            validation_alias=AliasChoices("IFINU_EVOLUTION_URL", "EVOLUTION_API_URL"),
            description="Base URL of the Evolution API.",
        ),
    ] = "http://localhost:8080"
    evolution_sharded: Annotated[
        bool,
        Field(
            description="Whether that host stands for several gateway processes (a headless Service). Each holds its "
            "own WhatsApp instances; a message goes to the one that holds its instance."
        ),
    ] = False
    evolution_api_key: Annotated[
        SecretStr | None,
        _Optional,
        Field(
            validation_alias=AliasChoices("IFINU_EVOLUTION_API_KEY", "EVOLUTION_API_KEY"),
            description="Key sent as `apikey`. A worker does not start without it.",
        ),
    ] = None
    evolution_instance: Annotated[
        str, Field(min_length=1, description="WhatsApp instance for messages without `instancia`.")
    ] = "ifinu"
    evolution_connect_timeout_s: Annotated[_Seconds, Field(description="Time to open a connection to the gateway.")] = (
        5.0
    )
    evolution_read_timeout_s: Annotated[
        _Seconds,
        Field(description="Time to wait for the gateway's answer. After it the outcome is unknown, so keep it long."),
    ] = 75.0

    concurrency: Annotated[int, Field(ge=1, le=1000, description="Sends in parallel in one worker.")] = 10
    rate_limit: Annotated[
        str,
        Field(description="Pace of one worker: `50/s`, `3000/m`, `100/h`. It is exact while there is a backlog."),
    ] = "50/s"
    rate_burst: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="How many sends above the rate a one-second window may have, to catch up after a stall.",
        ),
    ] = 5
    max_retries: Annotated[
        int, Field(ge=0, le=100, description="Tries after the first one; then the message goes to the DLQ.")
    ] = 3
    retry_backoff_s: Annotated[
        _Seconds,
        Field(description="Longest wait before the first retry; it doubles with each retry, with full jitter."),
    ] = 5.0
    retry_backoff_max_s: Annotated[_Seconds, Field(description="Longest wait between two tries.")] = 600.0
    misconfigured_wait_s: Annotated[
        _Seconds,
        Field(
            description="How long a message waits if its instance or the key is wrong. The wait counts no try.",
        ),
    ] = 30.0
    instance_missing_ttl_s: Annotated[
        _Seconds,
        Field(
            description="How long a message waits for an instance that the gateway does not have; then it becomes a "
            "dead letter, `instance_not_found`."
        ),
    ] = 86_400.0
    lease_s: Annotated[
        float,
        Field(
            ge=2,
            le=3600,
            description="A worker without a sign of life for this long counts as dead; its messages go back.",
        ),
    ] = 15.0
    result_backend: Annotated[
        SecretStr | None,
        _Optional,
        Field(description="Celery result backend. Unset: results are not kept, and `AsyncResult.get()` cannot work."),
    ] = None
    database_password: Annotated[
        SecretStr | None,
        _Optional,
        Field(
            description="Password of the ledger, if `IFINU_DATABASE_URL` has none; any characters, not percent-encoded."
        ),
    ] = None
    database_url: Annotated[
        SecretStr,
        Field(
            validate_default=True,
            description="The ledger: `postgresql://user:password@host/database` (hosts: `a:5432,b:5432`), or "
            "`sqlite:///file` if all processes run on one machine.",
        ),
    ] = SecretStr("sqlite:///ifinu.db")
    recorder: Annotated[
        bool,
        Field(
            description="Whether one of the workers writes the ledger, in a child process; `false` if a separate "
            "`ifinu recorder` runs."
        ),
    ] = True
    retention_days: Annotated[
        int, Field(ge=1, description="Age in days at which the ledger deletes a notification and its events.")
    ] = 365
    unconfirmed_after_s: Annotated[
        _Seconds, Field(description="How long a sent message may lack a receipt before it counts as unconfirmed.")
    ] = 21_600.0
    phone_key: Annotated[
        SecretStr | None,
        _Optional,
        Field(
            description="Key of the hash by which the ledger and the opt-outs know a phone. "
            "Unset: ifinu makes one and keeps it in Redis."
        ),
    ] = None
    claim_ttl_s: Annotated[
        _Seconds, Field(description="How long ifinu remembers an id; a second message with it is not sent.")
    ] = 604_800.0
    on_unknown: Annotated[
        OnUnknown,
        Field(
            description="What to do with a message that may have been sent and that the gateway does not have: "
            "`resend_once` or `hold`."
        ),
    ] = OnUnknown.RESEND_ONCE
    unknown_grace_s: Annotated[
        _Seconds,
        Field(
            description="How long ifinu asks the gateway for such a message before it counts as not sent. "
            "One request can take minutes inside the gateway."
        ),
    ] = 300.0
    reference: Annotated[
        bool,
        Field(description="Whether texts end in a short reference, by which ifinu finds such a message."),
    ] = True
    pix_separate: Annotated[
        bool,
        Field(
            description="Whether a Pix code and a boleto's linha digitável follow the notification, "
            "each in a message that holds nothing else and can be copied."
        ),
    ] = False
    numbers: Annotated[
        Numbers,
        Field(
            description="Which instances may send: `open`, all of them; `registered`, only those that `ifinu instance` "
            "has registered, each at its pace."
        ),
    ] = Numbers.OPEN
    reminders_per_person: Annotated[
        int,
        Field(
            ge=0,
            description="The most reminders a day (any kind but `pagamento`) that a person gets from a "
            "tenant by registered numbers; `0`: any number.",
        ),
    ] = 1
    templates: Annotated[
        Path | None,
        _Optional,
        Field(
            description="Directory of texts that replace ifinu's: `<kind>.txt.j2`, and `<tenant>/<kind>.txt.j2` for "
            "one tenant; and of Meta's templates, `<kind>.meta.json` likewise."
        ),
    ] = None
    sending_window: Annotated[
        str | None,
        _Optional,
        Field(
            description="When messages may go, by the clock where the phone is: `mon-fri 08:00-20:00, sat 09:00-13:00`."
        ),
    ] = None
    sending_holidays: Annotated[
        Literal["BR"] | None,
        _Optional,
        Field(
            description="`BR`: nothing is sent on bank holidays, nor on public holidays of the phone's state. Unset: "
            "holidays are days like others."
        ),
    ] = None
    sending_windows_file: Annotated[
        Path | None,
        _Optional,
        Field(description="JSON file of windows by tenant and state; it overrides `IFINU_SENDING_WINDOW`."),
    ] = None
    evolution_database_password: Annotated[
        SecretStr | None,
        _Optional,
        Field(description="Password of the gateway's database, if `IFINU_EVOLUTION_DATABASE_URL` has none."),
    ] = None
    evolution_database_url: Annotated[
        SecretStr | None,
        _Optional,
        Field(description="The gateway's database, for `ifinu backup`. Unset: the backup leaves it out."),
    ] = None
    backup_store: Annotated[
        str | None,
        _Optional,
        Field(
            description="Where `ifinu backup` puts its copies: a directory, or `s3://bucket/prefix` "
            "(`pip install 'ifinu[s3]'`; keys and endpoint by the `AWS_*` variables)."
        ),
    ] = None
    backup_keep_days: Annotated[
        int, Field(ge=1, description="Age in days at which a backup is deleted; the newest complete one always stays.")
    ] = 14
    webhook_secret: Annotated[
        SecretStr | None,
        _Optional,
        Field(
            description="Secret from which each instance's login at `ifinu webhook` is derived. The webhook does not "
            "start without it."
        ),
    ] = None
    webhook_secret_previous: Annotated[
        SecretStr | None,
        _Optional,
        Field(description="The previous secret, also accepted while `ifinu instance webhook` registers the new one."),
    ] = None
    webhook_url: Annotated[
        str | None,
        _Optional,
        Field(description="Where the gateway reaches `ifinu webhook`; `ifinu instance webhook` registers it."),
    ] = None
    payment_secrets_file: Annotated[
        Path | None,
        _Optional,
        Field(
            description="JSON file of the payment providers' secrets by tenant (`docs/billing.md`). Unset: "
            "`ifinu webhook` receives no payments."
        ),
    ] = None
    flower_auth: Annotated[
        SecretStr | None,
        _Optional,
        Field(
            description="Login for `ifinu flower`, which does not start without it: `user:password`, "
            "the password with 12 characters or more."
        ),
    ] = None
    sandbox_number: Annotated[
        str | None,
        _Optional,
        Field(
            description="Phone that completes a test message, with sample data for other missing fields (demo, "
            "staging, load tests). Leave it unset in production: such a message then goes to the DLQ."
        ),
    ] = None
    max_message_bytes: Annotated[
        int, Field(ge=1024, description="A message larger than this goes to the DLQ unread.")
    ] = 262_144
    worker_name: Annotated[
        # Not `{1,100}`, which pydantic's engine compiles into 8 MiB: a hundred copies of Unicode's letters.
        Annotated[str, StringConstraints(pattern=r"^[\w.@-]+$", max_length=100)] | None,
        _Optional,
        Field(
            description="Name of this worker for the gateway (`X-Ifinu-Worker`). Unset: its host name.",
        ),
    ] = None
    heartbeat_file: Annotated[
        Path | None,
        _Optional,
        Field(description="File that the worker touches every 5 s while it consumes, for probes. Unset: no file."),
    ] = None
    metrics_port: Annotated[
        Annotated[int, Field(ge=0, le=65_535)] | None,
        _Optional,
        Field(description="Port on which a process serves `/metrics` to Prometheus. Unset: it serves none."),
    ] = None
    tracing: Annotated[
        bool,
        Field(
            description="Whether to trace each notification with OpenTelemetry and its `OTEL_*` variables: "
            "`pip install 'ifinu[otel]'`."
        ),
    ] = False
    log_level: Annotated[
        str, Field(pattern=r"^(?i:debug|info|warning|error)$", description="Lowest level that is logged.")
    ] = "info"
    log_format: Annotated[LogFormat, Field(description="`json`, `console`, or `auto`: console on a terminal.")] = (
        LogFormat.AUTO
    )
    log_limit: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Lines of one event logged a second, averaged over ten seconds; a tenth of it for warnings and "
            "errors. The rest is counted. 0: no limit.",
        ),
    ] = 200

    @field_validator("redis_url", mode="before")
    @classmethod
    def _address_or_url(cls, value: object) -> object:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return urls.redis_url(text) if isinstance(text, str) else value

    @field_validator("redis_url")
    @classmethod
    def _with_redis_password(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        return _with_password(value, info.data.get("redis_password"), "IFINU_REDIS_PASSWORD")

    @field_validator("evolution_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if not urls.is_url(value, ("http", "https")):
            raise ValueError("must be http://host:port or https://host")
        return value.rstrip("/")

    @field_validator("webhook_url")
    @classmethod
    def _http_url_or_none(cls, value: str | None) -> str | None:
        return value and cls._http_url(value)

    @field_validator("database_url")
    @classmethod
    def _ledger(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        password = info.data.get("database_password")
        scheme, separator, rest = value.get_secret_value().strip().partition("://")
        if scheme == "sqlite" and separator:
            if password is not None:
                raise ValueError("is SQLite, which has no password: unset IFINU_DATABASE_PASSWORD")
            return SecretStr(f"sqlite://{rest}")
        return _postgresql(value, password, "IFINU_DATABASE_PASSWORD", " or sqlite:///file")

    @field_validator("evolution_database_url")
    @classmethod
    def _gateway_database(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        password = info.data.get("evolution_database_password")
        return value and _postgresql(value, password, "IFINU_EVOLUTION_DATABASE_PASSWORD")

    @field_validator("backup_store")
    @classmethod
    def _is_a_store(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[^?#]*)?", value):
            raise ValueError("must be a directory or s3://bucket/prefix")
        return value

    @field_validator("phone_key", "webhook_secret", "webhook_secret_previous")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        # As many bytes as the hash that they key (RFC 7518, 3.2).
        if value is not None and len(value.get_secret_value().encode()) < 32:
            raise ValueError("must have 32 characters or more; try: openssl rand -hex 32")
        return value

    @field_validator("flower_auth")
    @classmethod
    def _is_a_login(cls, value: SecretStr | None) -> SecretStr | None:
        # Browsers do not agree on how to send what is not ASCII.
        if value is not None and not re.fullmatch(r"[!-9;-~]+:[!-~]{12,}", value.get_secret_value()):
            raise ValueError(
                "must be user:password in ASCII without spaces, the password with 12 characters or more; "
                "try: echo ops:$(openssl rand -hex 16)"
            )
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str) -> str:
        rate_per_s(value)
        return value

    @field_validator("sandbox_number")
    @classmethod
    def _sandbox_is_e164(cls, value: str | None) -> str | None:
        return value and phone.normalize(value)

    @property
    def rate_per_s(self) -> float:
        """Pace of one worker, in messages per second."""
        return rate_per_s(self.rate_limit)

    @classmethod
    def names(cls) -> dict[str, tuple[str, ...]]:
        """Each field and the environment variables that set it, the first one being its own."""
        out = {}
        for field, info in cls.model_fields.items():
            alias = info.validation_alias
            own = (PREFIX + field.upper(),)
            out[field] = tuple(str(a) for a in alias.choices) if isinstance(alias, AliasChoices) else own
        return out

    @classmethod
    def secrets(cls) -> tuple[str, ...]:
        """The fields that hold a secret, and so may come from a file."""
        types = {field: info.annotation for field, info in cls.model_fields.items()}
        return tuple(field for field, kind in types.items() if SecretStr in (kind, *get_args(kind)))


def load(**overrides: Any) -> Settings:
    """
    Read the environment once.

    Args:
        overrides: Fields that win over the environment, e.g. from the command line.

    Raises:
        ConfigurationError: Naming every variable at fault, never its value.
    """
    names = Settings.names()
    overrides = {field: value for field, value in overrides.items() if value is not None}
    problems = []
    # The variable that set each field, so that an error names the one to fix.
    origin = {field: next((name for name in every if os.environ.get(name)), every[0]) for field, every in names.items()}
    values: dict[str, Any] = {}
    for field in Settings.secrets():
        variable = f"{names[field][0]}_FILE"
        if path := os.environ.get(variable):
            origin[field] = variable
            try:
                values[field] = Path(path).read_text(encoding="utf-8").strip()
            except OSError as exc:
                problems.append(f"{variable}: {path}: {exc.strerror}")
            except UnicodeDecodeError:
                problems.append(f"{variable}: {path}: not text")
            else:
                if not values[field]:
                    problems.append(f"{variable}: {path}: is empty")
    known = {*itertools.chain(*names.values()), *(f"{names[field][0]}_FILE" for field in Settings.secrets())}
    problems += [
        f"{name}: no such setting; docs/settings.md lists them all"
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in known
    ]
    origin |= {field: field for field in overrides}
    by_location = origin | {every[0]: origin[field] for field, every in names.items()}  # pydantic's, by alias
    try:
        settings = Settings(**(values | overrides))
    except ValidationError as exc:
        for error in exc.errors(include_input=False, include_url=False):
            field = str(error["loc"][0]) if error["loc"] else ""
            problems.append(f"{by_location.get(field, field)}: {error['msg'].removeprefix('Value error, ')}")
    else:
        problems += _contradictions(settings, origin)
    if problems:
        raise ConfigurationError("; ".join(problems))
    return settings


def _contradictions(settings: Settings, origin: Mapping[str, str]) -> Iterator[str]:
    """The variables that Celery would silently prefer to our settings."""
    own = origin["redis_url"] + ("" if os.environ.get(origin["redis_url"]) else " (not set)")
    url = settings.redis_url.get_secret_value()
    for name, also in _CELERY_BROKER.items():
        other = os.environ.get(name)
        if other and not urls.is_same_redis(other, url):
            named = urls.shown(other)
            beside = " with another login or other options" if named == urls.shown(url) else ""
            yield (
                f"{name}{also} names the broker {named}{beside}, and {own} {urls.shown(url)}: "
                f"all goes by {origin['redis_url']}; unset the other, or let both say the same"
            )
    backend = None if settings.result_backend is None else settings.result_backend.get_secret_value()
    other = os.environ.get("CELERY_RESULT_BACKEND")
    if other and other != backend:
        yield (
            f"CELERY_RESULT_BACKEND names {urls.shown(other)}, and {origin['result_backend']} "
            f"{'is not set' if backend is None else urls.shown(backend)}: "
            f"all goes by {origin['result_backend']}; unset the other, or let both say the same"
        )
