import json
import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from ifinu import settings
from ifinu.errors import ConfigurationError
from ifinu.settings import LogFormat, OnUnknown, Settings

# Each field, the variables that set it, a value other than its default, and the value read.
VARIABLES = [
    ("redis_url", ("IFINU_REDIS_URL", "REDIS_ADDR"), "redis://fila:6379/3", "redis://fila:6379/3"),
    ("evolution_url", ("IFINU_EVOLUTION_URL", "EVOLUTION_API_URL"), "https://evo/", "https://evo"),
    ("redis_password", ("IFINU_REDIS_PASSWORD",), "p@ss/word", "p@ss/word"),
    ("database_password", ("IFINU_DATABASE_PASSWORD",), "p@ss/word", "p@ss/word"),
    ("evolution_sharded", ("IFINU_EVOLUTION_SHARDED",), "true", True),
    ("evolution_database_password", ("IFINU_EVOLUTION_DATABASE_PASSWORD",), "p:w", "p:w"),
    (
        "evolution_database_url",
        ("IFINU_EVOLUTION_DATABASE_URL",),
        "postgresql://e:p@h/evolution",
        "postgresql+psycopg2://e:p@h/evolution",
    ),
    ("backup_store", ("IFINU_BACKUP_STORE",), "s3://bucket/ifinu", "s3://bucket/ifinu"),
    ("backup_keep_days", ("IFINU_BACKUP_KEEP_DAYS",), "30", 30),
    ("evolution_api_key", ("IFINU_EVOLUTION_API_KEY", "EVOLUTION_API_KEY"), " hush\n", "hush"),
    ("claim_ttl_s", ("IFINU_CLAIM_TTL_S",), "3600", 3600.0),
    ("worker_name", ("IFINU_WORKER_NAME",), "worker-1", "worker-1"),
    ("evolution_instance", ("IFINU_EVOLUTION_INSTANCE",), "vendas", "vendas"),
    ("evolution_connect_timeout_s", ("IFINU_EVOLUTION_CONNECT_TIMEOUT_S",), "2.5", 2.5),
    ("evolution_read_timeout_s", ("IFINU_EVOLUTION_READ_TIMEOUT_S",), "90", 90.0),
    ("concurrency", ("IFINU_CONCURRENCY",), "25", 25),
    ("rate_limit", ("IFINU_RATE_LIMIT",), "100/h", "100/h"),
    ("rate_burst", ("IFINU_RATE_BURST",), "9", 9),
    ("max_retries", ("IFINU_MAX_RETRIES",), "0", 0),
    ("retry_backoff_s", ("IFINU_RETRY_BACKOFF_S",), "1", 1.0),
    ("retry_backoff_max_s", ("IFINU_RETRY_BACKOFF_MAX_S",), "60", 60.0),
    ("instance_missing_ttl_s", ("IFINU_INSTANCE_MISSING_TTL_S",), "3600", 3_600.0),
    ("misconfigured_wait_s", ("IFINU_MISCONFIGURED_WAIT_S",), "7", 7.0),
    ("lease_s", ("IFINU_LEASE_S",), "20", 20.0),
    ("result_backend", ("IFINU_RESULT_BACKEND",), "redis://r/1", "redis://r/1"),
    ("database_url", ("IFINU_DATABASE_URL",), "postgres://u:p@h/d", "postgresql+psycopg2://u:p@h/d"),
    ("recorder", ("IFINU_RECORDER",), "false", False),
    ("retention_days", ("IFINU_RETENTION_DAYS",), "30", 30),
    ("unconfirmed_after_s", ("IFINU_UNCONFIRMED_AFTER_S",), "3600", 3600.0),
    ("phone_key", ("IFINU_PHONE_KEY",), "k" * 32, "k" * 32),
    ("on_unknown", ("IFINU_ON_UNKNOWN",), "hold", OnUnknown.HOLD),
    ("unknown_grace_s", ("IFINU_UNKNOWN_GRACE_S",), "60", 60.0),
    ("reference", ("IFINU_REFERENCE",), "0", False),
    ("pix_separate", ("IFINU_PIX_SEPARATE",), "true", True),
    ("numbers", ("IFINU_NUMBERS",), "registered", "registered"),
    ("reminders_per_person", ("IFINU_REMINDERS_PER_PERSON",), "3", 3),
    ("templates", ("IFINU_TEMPLATES",), "/etc/ifinu/texts", Path("/etc/ifinu/texts")),
    ("sending_window", ("IFINU_SENDING_WINDOW",), "daily 08:00-20:00", "daily 08:00-20:00"),
    ("sending_holidays", ("IFINU_SENDING_HOLIDAYS",), "BR", "BR"),
    (
        "sending_windows_file",
        ("IFINU_SENDING_WINDOWS_FILE",),
        "/etc/ifinu/windows.json",
        Path("/etc/ifinu/windows.json"),
    ),
    ("webhook_secret", ("IFINU_WEBHOOK_SECRET",), "s" * 32, "s" * 32),
    ("webhook_secret_previous", ("IFINU_WEBHOOK_SECRET_PREVIOUS",), "p" * 32, "p" * 32),
    (
        "payment_secrets_file",
        ("IFINU_PAYMENT_SECRETS_FILE",),
        "/etc/ifinu/payments.json",
        Path("/etc/ifinu/payments.json"),
    ),
    ("flower_auth", ("IFINU_FLOWER_AUTH",), " ops:correct-horse\n", "ops:correct-horse"),
    ("webhook_url", ("IFINU_WEBHOOK_URL",), "http://hooks:8090/", "http://hooks:8090"),
    ("sandbox_number", ("IFINU_SANDBOX_NUMBER",), "(77) 99861-6740", "+5577998616740"),
    ("max_message_bytes", ("IFINU_MAX_MESSAGE_BYTES",), "2048", 2048),
    ("heartbeat_file", ("IFINU_HEARTBEAT_FILE",), "/run/ifinu", Path("/run/ifinu")),
    ("log_level", ("IFINU_LOG_LEVEL",), "DEBUG", "DEBUG"),
    ("log_format", ("IFINU_LOG_FORMAT",), "json", LogFormat.JSON),
    ("metrics_port", ("IFINU_METRICS_PORT",), "9464", 9464),
    ("tracing", ("IFINU_TRACING",), "true", True),
    ("log_limit", ("IFINU_LOG_LIMIT",), "0", 0),
]
# Settings that a field needs beside it.
BESIDE = {"database_password": ("IFINU_DATABASE_URL", "postgresql://ifinu@db/ifinu")}
SECRETS = (
    "redis_password",
    "redis_url",
    "evolution_api_key",
    "database_password",
    "database_url",
    "evolution_database_password",
    "evolution_database_url",
    "result_backend",
    "phone_key",
    "webhook_secret",
    "webhook_secret_previous",
    "flower_auth",
)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.upper().startswith("IFINU_") or name in (
            "REDIS_ADDR",
            "EVOLUTION_API_URL",
            "EVOLUTION_API_KEY",
        ):
            monkeypatch.delenv(name)


def shown(value):
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def test_the_table_has_every_setting():
    assert {field: names for field, names, *_ in VARIABLES} == Settings.names()


def test_nothing_need_be_set():
    defaults = settings.load()
    assert shown(defaults.redis_url) == "redis://localhost:6379/0"
    assert (defaults.concurrency, defaults.rate_per_s) == (10, 50.0)
    assert defaults.evolution_api_key is None
    assert defaults.sandbox_number is None


@pytest.mark.parametrize(
    ("name", "field", "given", "read"),
    [(name, field, given, read) for field, names, given, read in VARIABLES for name in names],
)
def test_every_variable_sets_its_field(monkeypatch, name, field, given, read):
    assert shown(getattr(settings.load(), field)) != read
    if field in BESIDE:
        monkeypatch.setenv(*BESIDE[field])
    monkeypatch.setenv(name, given)
    assert shown(getattr(settings.load(), field)) == read


@pytest.mark.parametrize("name", [name for _, names, *_ in VARIABLES for name in names])
def test_an_empty_variable_is_unset(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert settings.load() == Settings()


@pytest.mark.parametrize(
    "field", ["evolution_api_key", "result_backend", "phone_key", "sandbox_number", "heartbeat_file"]
)
def test_a_blank_optional_is_unset(monkeypatch, field):
    monkeypatch.setenv(f"IFINU_{field.upper()}", "  ")
    assert getattr(settings.load(), field) is None


@pytest.mark.parametrize(("field", "names", "given", "read"), [row for row in VARIABLES if len(row[1]) > 1])
def test_its_own_name_beats_an_alias_unless_it_is_empty(monkeypatch, field, names, given, read):
    own, alias = names
    monkeypatch.setenv(alias, given)
    monkeypatch.setenv(own, "")
    assert shown(getattr(settings.load(), field)) == read
    monkeypatch.setenv(alias, "redis://other" if field == "redis_url" else "http://other")
    monkeypatch.setenv(own, given)
    assert shown(getattr(settings.load(), field)) == read


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("redis:6379", "redis://redis:6379/0"),
        ("redis", "redis://redis/0"),
        ("user:hush@redis:6379", "redis://user:hush@redis:6379/0"),
        ("[::1]:6379", "redis://[::1]:6379/0"),
        (" redis:6379\n", "redis://redis:6379/0"),
        ("rediss://:hush@redis:6380/2?ssl_cert_reqs=none", "rediss://:hush@redis:6380/2?ssl_cert_reqs=none"),
        ("redis://redis", "redis://redis/0"),
    ],
)
def test_redis_may_be_an_address_or_a_url(monkeypatch, address, url):
    monkeypatch.setenv("REDIS_ADDR", address)
    assert shown(settings.load().redis_url) == url
    assert shown(settings.load(redis_url=SecretStr(address)).redis_url) == url


@pytest.mark.parametrize("field", SECRETS)
def test_a_secret_may_come_from_a_file_which_beats_its_variable(monkeypatch, tmp_path, field):
    given = {field: (given, read) for field, _, given, read in VARIABLES}[field]
    (tmp_path / "secret").write_text(f"{given[0]}\n", "utf-8")
    if field in BESIDE:
        monkeypatch.setenv(*BESIDE[field])
    monkeypatch.setenv(f"IFINU_{field.upper()}_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv(f"IFINU_{field.upper()}", "redis://other")
    assert shown(getattr(settings.load(), field)) == given[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), (b"\xff\xfe", "not text"), (b"\n", "is empty")],
)
def test_a_secret_file_without_a_secret_is_named(monkeypatch, tmp_path, content, reason):
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY_FILE", str(path))
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert str(caught.value) == f"IFINU_EVOLUTION_API_KEY_FILE: {path}: {reason}"


@pytest.mark.parametrize("name", ["IFINU_RDIS_URL", "IFINU_", "ifinu_rdis_url", "IFINU_POOL_FILE", "IFINU_RATE_PER_S"])
def test_an_unknown_name_of_ours_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "hush")
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert str(caught.value) == f"{name}: no such setting; docs/settings.md lists them all"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("IFINU_REDIS_URL", "http://redis", "must be redis://"),
        ("IFINU_REDIS_URL", "redis://", "must be redis://"),
        ("IFINU_REDIS_URL", "redis://:hush/hush@redis:6379/0", "must be redis://"),
        ("IFINU_REDIS_URL", "redis://redis:hush", "must be redis://"),
        ("IFINU_REDIS_URL", "redis://redis/hush", "must be redis://"),
        ("IFINU_REDIS_URL", "redis://[hush", "must be redis://"),
        ("REDIS_ADDR", "redis:hush", "must be redis://"),
        ("EVOLUTION_API_URL", "hush", "must be http://"),
        ("IFINU_EVOLUTION_URL", "http://evo:hush", "must be http://"),
        ("IFINU_EVOLUTION_READ_TIMEOUT_S", "inf", "finite"),
        ("IFINU_EVOLUTION_CONNECT_TIMEOUT_S", "0", "greater than 0"),
        ("IFINU_CONCURRENCY", "hush", "valid integer"),
        ("IFINU_CONCURRENCY", "0", "greater than or equal to 1"),
        ("IFINU_RATE_LIMIT", "50/d", "'50/d' is not a rate; write it as 50/s, 3000/m or 100/h"),
        ("IFINU_LEASE_S", "1", "greater than or equal to 2"),
        ("IFINU_FLOWER_AUTH", "hush-hush-hush", "must be user:password"),
        ("IFINU_FLOWER_AUTH", ":hush-hush-hush", "must be user:password"),
        ("IFINU_FLOWER_AUTH", "ops:hush", "12 characters or more; try: echo ops:$(openssl rand -hex 16)"),
        ("IFINU_FLOWER_AUTH", "ops:hush, ação e pão", "in ASCII without spaces"),
        ("IFINU_SANDBOX_NUMBER", "hush", "characters that no phone number has"),
        ("IFINU_LOG_LEVEL", "hush", "pattern"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_not_shown(monkeypatch, name, value, reason):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert str(caught.value).startswith(f"{name}: ")
    assert reason in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_wrong_value_from_a_file_names_the_file_variable_and_does_not_show_it(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("ftp://:hush@redis", "utf-8")
    monkeypatch.setenv("IFINU_REDIS_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(ConfigurationError, match=r"^IFINU_REDIS_URL_FILE: must be redis://") as caught:
        settings.load()
    assert "hush" not in str(caught.value)


def test_everything_wrong_is_named_at_once(monkeypatch):
    monkeypatch.setenv("IFINU_CONCURRENCY", "0")
    monkeypatch.setenv("IFINU_LEASE_S", "1")
    monkeypatch.setenv("IFINU_TYPO", "1")
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert [part.split(":")[0] for part in str(caught.value).split("; ") if part.startswith("IFINU")] == [
        "IFINU_TYPO",
        "IFINU_CONCURRENCY",
        "IFINU_LEASE_S",
    ]


def test_an_override_other_than_none_beats_the_environment_and_files(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("from the file", "utf-8")
    monkeypatch.setenv("IFINU_CONCURRENCY", "7")
    monkeypatch.setenv("IFINU_EVOLUTION_API_KEY_FILE", str(tmp_path / "secret"))
    assert settings.load(concurrency=5).concurrency == 5
    assert settings.load(concurrency=None).concurrency == 7
    assert shown(settings.load(evolution_api_key="given").evolution_api_key) == "given"
    monkeypatch.setenv("REDIS_ADDR", "from-the-alias")
    assert shown(settings.load(redis_url="given").redis_url) == "redis://given/0"


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ({"concurrency": 0}, "concurrency: Input should be greater than or equal to 1"),
        ({"evolution_url": "evo"}, "evolution_url: must be http://host:port or https://host"),
        ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_override_is_named_as_given(monkeypatch, override, error):
    monkeypatch.setenv("IFINU_CONCURRENCY", "7")
    with pytest.raises(ConfigurationError) as caught:
        settings.load(**override)
    assert str(caught.value) == error


@pytest.mark.parametrize("show", [repr, str])
def test_no_secret_is_shown(show):
    loaded = settings.load(
        redis_url="redis://:hush@redis/0",
        evolution_api_key="hush",
        database_url="postgresql://u:hush@h/d",
        result_backend="redis://:hush@redis/1",
    )
    assert "hush" not in show(loaded)
    assert "concurrency=10" in show(loaded)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        settings.load().concurrency = 11


@pytest.mark.parametrize(
    ("limit", "per_s"),
    [("50/s", 50.0), ("3000/m", 50.0), ("180/h", 0.05), ("50", 50.0), ("0.5/s", 0.5), (" 50/s ", 50.0)],
)
def test_a_rate(limit, per_s):
    assert settings.rate_per_s(limit) == pytest.approx(per_s, rel=1e-12)
    assert settings.load(rate_limit=limit).rate_per_s == pytest.approx(per_s, rel=1e-12)


@pytest.mark.parametrize("limit", ["", "0", "0/s", "-1/s", "50/d", "50 / s", "s", "1e3/s", "inf", "nan", "٥٠/s"])
def test_a_malformed_rate_is_refused(limit):
    with pytest.raises(ValueError, match="is not a rate; write it as 50/s"):
        settings.rate_per_s(limit)


@pytest.mark.parametrize(
    ("url_name", "url", "password_name", "field", "read"),
    [
        ("IFINU_REDIS_URL", "redis://fila:6379/3", "IFINU_REDIS_PASSWORD", "redis_url", "redis://:{}@fila:6379/3"),
        ("REDIS_ADDR", "fila:6379", "IFINU_REDIS_PASSWORD", "redis_url", "redis://:{}@fila:6379/0"),
        ("IFINU_REDIS_URL", "rediss://u@fila:6379/0", "IFINU_REDIS_PASSWORD", "redis_url", "rediss://u:{}@fila:6379/0"),
        (
            "IFINU_DATABASE_URL",
            "postgresql://ifinu@db/ifinu?sslmode=require",
            "IFINU_DATABASE_PASSWORD",
            "database_url",
            "postgresql+psycopg2://ifinu:{}@db/ifinu?sslmode=require",
        ),
        (
            "IFINU_EVOLUTION_DATABASE_URL",
            "postgres://evolution@db/evolution",
            "IFINU_EVOLUTION_DATABASE_PASSWORD",
            "evolution_database_url",
            "postgresql+psycopg2://evolution:{}@db/evolution",
        ),
    ],
)
def test_a_password_of_any_characters_goes_into_its_url(monkeypatch, url_name, url, password_name, field, read):
    monkeypatch.setenv(url_name, url)
    monkeypatch.setenv(password_name, "a/b@c:d?é#%")
    assert shown(getattr(settings.load(), field)) == read.format("a%2Fb%40c%3Ad%3F%C3%A9%23%25")


def test_the_default_queue_takes_a_password_too(monkeypatch):
    monkeypatch.setenv("IFINU_REDIS_PASSWORD", "hush")
    assert shown(settings.load().redis_url) == "redis://:hush@localhost:6379/0"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"IFINU_REDIS_URL": "redis://:hush@fila", "IFINU_REDIS_PASSWORD": "other"},
            "IFINU_REDIS_URL: has a password already",
        ),
        (
            {"IFINU_DATABASE_URL": "sqlite:///x.db", "IFINU_DATABASE_PASSWORD": "other"},
            "IFINU_DATABASE_URL: is SQLite",
        ),
        ({"IFINU_DATABASE_PASSWORD": "other"}, "IFINU_DATABASE_URL: is SQLite"),
        ({"IFINU_EVOLUTION_DATABASE_URL": "mysql://h/d"}, "IFINU_EVOLUTION_DATABASE_URL: must be postgresql://"),
        ({"IFINU_BACKUP_STORE": "ftp://host/x"}, "IFINU_BACKUP_STORE: must be a directory or s3://bucket/prefix"),
    ],
)
def test_contradictory_settings_are_refused_without_showing_a_secret(monkeypatch, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "other" not in str(caught.value)


def test_no_pattern_repeats_a_class_a_hundred_times():
    """
    Pydantic's engine compiles a copy of the class for each time; `[\\w.@-]{1,100}` took 8 MiB of every process.
    """
    patterns = re.findall(r'"pattern": "(.*?)"[,}]', json.dumps(Settings.model_json_schema()))
    assert patterns
    assert [pattern for pattern in patterns if re.search(r"\{\d+,\d*\}", pattern)] == []


@pytest.mark.parametrize(
    ("name", "accepted"), [("w" * 100, True), ("é.@-_1", True), ("w" * 101, False), ("a b", False)]
)
def test_the_name_of_a_worker_is_a_word_of_at_most_a_hundred_characters(monkeypatch, name, accepted):
    monkeypatch.setenv("IFINU_WORKER_NAME", name)
    if accepted:
        assert settings.load().worker_name == name
    else:
        with pytest.raises(ConfigurationError, match="IFINU_WORKER_NAME"):
            settings.load()
