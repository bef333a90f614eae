import errno
import socket

import pytest

from ifinu import sockets


def reaches(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex((address, port)) == 0


def test_listening_on_all_addresses_covers_ipv4_and_ipv6():
    with sockets.listen(sockets.EVERY, 0) as listener:
        port = listener.getsockname()[1]
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port)


def test_listening_on_all_addresses_works_without_ipv6(monkeypatch):
    made = sockets._listen

    def without_ipv6(family, address):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, address)

    monkeypatch.setattr(sockets, "_listen", without_ipv6)
    with sockets.listen(sockets.EVERY, 0) as listener:
        assert listener.family == socket.AF_INET
        assert reaches("127.0.0.1", listener.getsockname()[1])


def test_a_port_in_use_on_ipv6_is_not_used_on_ipv4_alone():
    with sockets.listen(sockets.EVERY, 0) as taken, pytest.raises(OSError, match="in use"):
        sockets.listen(sockets.EVERY, taken.getsockname()[1])


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:"), ("::1", "http://[::1]:")])
def test_a_url_is_written_as_browsers_take_it(host, url):
    with sockets.listen(host, 0) as listener:
        assert sockets.url(listener) == f"{url}{listener.getsockname()[1]}"
