from __future__ import annotations

import pytest
from forks import Forks, bare, libraries

import ifinu


@pytest.mark.parametrize("name", ifinu.__all__)
def test_every_public_name_can_be_imported_from_the_package(name: str):
    assert getattr(ifinu, name) is not None


def test_the_public_names_are_those_of_the_documentation():
    assert ifinu.__all__ == [
        "Enqueued", "Kind", "Notification", "Priority", "RefusedNotification", "app", "cancel", "enqueue_many",
        "send_notification",
    ]  # fmt: skip


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'ifinu' has no attribute 'send'"):
        _ = ifinu.send  # type: ignore[attr-defined]  # that is the point


def loaded_by(statement: str, interpreter: Forks) -> set[str]:
    """The top-level modules and those of ifinu that an interpreter has loaded after `statement`."""
    ended = interpreter.run(f"{statement}\nimport sys\nprint(*sys.modules)")
    assert ended.code == 0, ended.err
    return {name for name in ended.out.split() if "." not in name or name.startswith("ifinu.")}


def test_importing_the_package_loads_neither_celery_nor_a_module_of_ifinu():
    loaded = loaded_by("import ifinu", bare())
    assert not loaded & {"celery", "kombu", "redis", "pydantic", "requests", "phonenumbers"}
    assert not [name for name in loaded if name.startswith("ifinu.")]


@pytest.mark.parametrize("name", ["Notification", "Kind", "cancel", "enqueue_many"])
def test_a_producer_in_bulk_needs_neither_celery_nor_the_gateways_client(name: str):
    loaded = loaded_by(f"from ifinu import {name}", libraries())
    assert not loaded & {"celery", "ifinu.gateway", "ifinu.worker"}


def test_a_worker_that_does_not_record_loads_no_database_no_other_command_and_nothing_that_traces():
    statement = "import ifinu.worker.tasks, ifinu.worker.consumer, ifinu.worker.inspection, celery.bin.worker"
    loaded = loaded_by(statement, bare())
    assert "ifinu.worker.app" in loaded
    assert not loaded & {
        "alembic",
        "flower",
        "ifinu.cli",
        "ifinu.ledger.recorder",
        "ifinu.tables",
        "ifinu.tracing.sdk",
        "prompt_toolkit",
        "psycopg2",
        "requests",
        "sqlalchemy",
        "sqlite3",
        "starlette",
        "tornado",
        "typer",
        "uvicorn",
    }
