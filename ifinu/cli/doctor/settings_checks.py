"""The checks of `ifinu doctor` on the settings and on the files that they name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ifinu import phone
from ifinu.cli.doctor.findings import Finding, Level
from ifinu.errors import ConfigurationError
from ifinu.settings import Settings
from ifinu.window import Windows

_STALE_HEARTBEAT_S = 30.0


def examine_settings(config: Settings) -> Iterator[Finding]:
    """Check the pseudonyms' key and the sandbox number; texts, sending windows and heartbeat where they are set."""
    yield _phone_key(config)
    if config.templates is not None:
        fix = "correct them, then `ifinu template check`: no worker starts"
        yield _loaded("texts", _texts, config, f"those in {config.templates} can be read", fix)
    if config.sending_window is not None or config.sending_windows_file is not None:
        yield _loaded("sending window", _windows, config, "can be read", "correct it: no worker starts with it")
    yield _sandbox(config)
    if config.heartbeat_file is not None:
        yield _heartbeat(config.heartbeat_file)


def _loaded(check: str, load: Callable[[Settings], object], config: Settings, seen: str, fix: str) -> Finding:
    try:
        load(config)
    except ConfigurationError as exc:
        return Finding(check, Level.FAIL, str(exc), fix)
    return Finding(check, Level.OK, seen)


def _texts(config: Settings) -> object:
    from ifinu.render import Renderer

    return Renderer(config.templates)


def _windows(config: Settings) -> object:
    rest = config.sending_holidays is not None
    return Windows.load(config.sending_window, config.sending_windows_file, rest=rest)


def _phone_key(config: Settings) -> Finding:
    if config.phone_key is not None:
        return Finding("phone key", Level.OK, "set")
    fix = (
        "all opt-outs are lost with it: set IFINU_PHONE_KEY to the value that workers and webhook have, or to the "
        "output of `redis-cli GET ifinu:chave:telefone`, and not to a new one. `ifinu metrics` needs none"
    )
    return Finding("phone key", Level.WARN, "not set here: where no process has one, it is kept in Redis alone", fix)


def _sandbox(config: Settings) -> Finding:
    if config.sandbox_number is None:
        return Finding("sandbox", Level.OK, "not set: a message without a phone becomes a dead letter")
    fix = "right for a demo, staging and load tests; unset IFINU_SANDBOX_NUMBER in production"
    seen = f"messages without a phone go to {phone.mask(config.sandbox_number)}"
    return Finding("sandbox", Level.WARN, seen, fix)


def _heartbeat(file: Path) -> Finding:
    try:
        age_s = time.time() - file.stat().st_mtime
    except OSError:
        if not os.access(file.parent, os.W_OK | os.X_OK):
            return Finding(
                "heartbeat", Level.FAIL, f"{file.parent} is not writable", "create the directory, or mount it"
            )
        fix = "no worker with this IFINU_HEARTBEAT_FILE takes messages: it starts, drains, waits for Redis or is down"
        return Finding("heartbeat", Level.WARN, "no file", fix)
    if age_s > _STALE_HEARTBEAT_S:
        return Finding("heartbeat", Level.FAIL, f"{age_s:.0f} s old", "the worker is stuck or was killed: restart it")
    return Finding("heartbeat", Level.OK, f"{age_s:.0f} s old")
