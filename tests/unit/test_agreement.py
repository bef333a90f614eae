from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.concurrency import get_implementation
from kombu import pools

from ifinu import settings
from ifinu.errors import ConfigurationError
from ifinu.worker import app as module
from ifinu.worker.agreement import check_worker
from ifinu.worker.app import Application, app
from ifinu.worker.pool import TaskPool
from ifinu.worker.tasks import send_notification

OURS, OTHER = "redis://:secret@fila:6379/0", "redis://:hush@other:6380/3"
BROKERS = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")


def application(**fields: Any) -> Application:
    """A Celery application of these settings, as the worker makes one."""
    made = Application("ifinu-test", set_as_current=False)
    made.on_configure.connect(module._configure, weak=False)
    made.use(settings.load(redis_url=OURS, **fields))
    return made


@pytest.mark.parametrize("name", BROKERS)
@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (OTHER, "redis://other:6380/3"),
        ("redis://:hush@fila:6379/0", "redis://fila:6379/0 with another login or other options"),
        ("redis://:secret@fila:6379/1", "redis://fila:6379/1"),
        ("amqp://guest:hush@rabbit//", "amqp://rabbit//"),
        ("hush", "something that is no URL"),
    ],
)
def test_a_different_broker_in_the_environment_is_refused_naming_both(monkeypatch, name, other, shown):
    monkeypatch.setenv("IFINU_REDIS_URL", OURS)
    monkeypatch.setenv(name, other)
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert f"names the broker {shown}, and IFINU_REDIS_URL redis://fila:6379/0" in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "hush" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", BROKERS)
def test_the_same_redis_given_twice_is_no_contradiction(monkeypatch, name):
    monkeypatch.setenv("REDIS_ADDR", "fila")
    monkeypatch.setenv(name, "redis://fila:6379")
    settings.load()
    made = Application("ifinu-test", set_as_current=False)
    made.on_configure.connect(module._configure, weak=False)
    made.check()


def test_a_broker_beside_the_default_is_refused_too(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://fila/0")
    with pytest.raises(ConfigurationError, match=r"IFINU_REDIS_URL \(not set\) redis://localhost:6379/0"):
        settings.load()


@pytest.mark.parametrize(("ours", "shown"), [(None, "is not set"), ("redis://fila/2", "redis://fila/2")])
def test_a_different_result_backend_in_the_environment_is_refused_naming_both(monkeypatch, ours, shown):
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://:hush@other/1")
    monkeypatch.setenv("IFINU_RESULT_BACKEND", ours or "")
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert f"redis://other/1, and IFINU_RESULT_BACKEND {shown}" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broker_url", OTHER, "redis://other:6380/3"),
        ("broker_url", f"{OURS};{OTHER}", "several servers"),
        ("broker_url", "redis://:hush@fila:6379/0", "with another login"),
        ("broker_read_url", OTHER, "redis://other:6380/3"),
        ("broker_write_url", OTHER, "redis://other:6380/3"),
        ("broker_transport", "redis", "transport"),
        ("broker_transport_options", {"priority_steps": [0, 3]}, "broker_transport_options was changed"),
        ("task_default_queue", "celery", "task_default_queue was changed"),
        ("task_queues", [], "task_queues was changed"),
        ("task_serializer", "pickle", "task_serializer was changed"),
        ("accept_content", ["pickle"], "accept_content was changed"),
        ("worker_consumer", "celery.worker.consumer:Consumer", "worker_consumer was changed"),
        ("result_backend", "redis://:hush@other/1", "result backend redis://other/1"),
    ],
)
def test_a_change_to_the_application_that_would_lose_messages_is_refused(name, value, message, late):
    made = application()
    if late:
        made.check()  # so that it is configured
    made.conf[name] = value
    with pytest.raises(ConfigurationError) as caught:
        made.check()
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("broker_vhost", "7"), ("broker_port", 1), ("worker_concurrency", 3), ("broker_url", "redis://:secret@FILA/0")],
)
def test_a_harmless_change_to_the_application_does_not_redirect_messages(name, value):
    made = application()
    made.conf[name] = value
    made.check()
    connection = made.connection_for_write()
    assert (connection.hostname.lower(), connection.port or 6379, connection.virtual_host) == ("fila", 6379, "0")


@pytest.fixture
def ours() -> Iterator[Application]:
    """The application of this process, for our Redis."""
    before, settings_before = app.conf.broker_url, app._settings
    app.use(settings.load(redis_url=OURS))
    app._pool = app.amqp._producer_pool = None
    yield app
    app.conf.broker_url, app._settings = before, settings_before
    pools.reset()
    app._pool = app.amqp._producer_pool = None


def test_a_producer_that_would_publish_elsewhere_is_refused_before_it_publishes(ours: Application):
    ours.conf.broker_url = OTHER
    with pytest.raises(ConfigurationError, match="redis://other:6380/3"):
        send_notification.delay(
            id="x", kind="lembrete", phone="(77) 99861-6740", name="Maria", amount="1", due_date="2026-12-01",
            description="x",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "taken"), [("ifinu.worker.pool:TaskPool", True), ("threads", False), ("prefork", False), ("solo", False)]
)
def test_a_worker_runs_only_in_our_pool(name, taken):
    if taken:
        check_worker(get_implementation(name))
    else:
        with pytest.raises(ConfigurationError, match="leave out -P"):
            check_worker(get_implementation(name))


def test_a_celery_settings_module_is_refused_because_ifinu_does_not_read_it(monkeypatch):
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "celeryconfig")
    with pytest.raises(ConfigurationError, match=r"CELERY_CONFIG_MODULE .* names celeryconfig"):
        check_worker(TaskPool)
