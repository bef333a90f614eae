from __future__ import annotations

import pytest

from ifinu.cli import transfers


def test_without_a_terminal_progress_is_printed_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with transfers.progress() as report:
        for second in range(13):
            now = 100.0 + second
            report("ledger", second * 1_000_000, None)
        now = 120.0
        report("restoring redis", 0, 50_000_000)
        now = 125.0
        report("restoring redis", 25_000_000, 50_000_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "ledger: 5.0 MB, 1.0 MB/s",
        "ledger: 10.0 MB, 1.0 MB/s",
        "restoring redis: 25.0 MB of 50.0 MB, 5.0 MB/s",
    ]
