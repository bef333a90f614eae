from __future__ import annotations

import pytest

from ifinu.backup.primary import Address


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        (None, "", 0),
        (":6390", "", 6390),
        ("10.0.0.7:6390", "10.0.0.7", 6390),
        ("[fd00::7]:6390", "fd00::7", 6390),
        ("restore.example:0", "restore.example", 0),
    ],
)
def test_the_address_at_which_redis_connects_to_the_restore(given: str | None, host: str, port: int):
    address = Address(given)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("given", ["6390", "host", "host:", "host:port", ":70000", ":-1"])
def test_a_malformed_address_is_refused(given: str):
    with pytest.raises(ValueError, match="must be HOST:PORT or :PORT"):
        Address(given)
