"""What a worker does before its first message."""

import contextlib
import gc
from types import SimpleNamespace

from ifinu.loop import Loop
from ifinu.worker.bootsteps import WarmUp


def test_it_connects_once_and_leaves_what_is_loaded_out_of_garbage_collection():
    connected: list[str] = []
    with contextlib.closing(Loop()) as loop:
        consumer = SimpleNamespace(
            pool=SimpleNamespace(loop=loop),
            leases=SimpleNamespace(connect=lambda: connected.append("leases")),
            app=SimpleNamespace(
                delivery=SimpleNamespace(claims=SimpleNamespace(connect=lambda: connected.append("claims")))
            ),
        )
        warm_up = WarmUp(consumer)
        try:
            for _ in range(2):  # after each connection
                warm_up.start(consumer)
            assert connected == ["leases", "claims"]
            assert gc.get_freeze_count() > 10_000
            assert len(gc.get_objects()) < 1_000
        finally:
            gc.unfreeze()
