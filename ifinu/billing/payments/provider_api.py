"""
Requests to a payment provider's API, with deadlines and retries. Only GET, which may be repeated.

A try that gets no answer, 429 or a 5xx is repeated after a pause. It follows no redirect, keeps no cookie, and takes no
proxy and no password from the environment, since the key would go there too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import requests

from ifinu.errors import ProviderError

_CONNECT_S, _ANSWER_S, _WHOLE_S = 5.0, 15.0, 30.0
_LARGEST_BYTES: Final = 20_000_000
_PAUSES_S: Final = (1.0, 3.0, 10.0)
_LONGEST_PAUSE_S: Final = 30.0
_MOST_PAGES: Final = 10_000
_NOT_FOUND: Final = 404
Parameters = Mapping[str, str] | Sequence[tuple[str, str]]


class ProviderApi:
    """
    A provider's API with one tenant's key.

    Args:
        provider: The provider's name, for errors.
        url: The base of every path.
        headers: Sent with each request; no error repeats them.
        pauses_s: The pauses between tries; none for a caller that cannot wait.
        answer_s: Longest wait for an answer.
        sleep: Waits, in seconds.
    """

    def __init__(
        self,
        provider: str,
        url: str,
        headers: Mapping[str, str],
        *,
        pauses_s: Sequence[float] = _PAUSES_S,
        answer_s: float = _ANSWER_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._provider = provider
        self._url = url.rstrip("/")
        self._pauses_s = pauses_s
        self._answer_s = answer_s
        self._sleep = sleep
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers.update({"User-Agent": "ifinu", "Accept": "application/json", **headers})

    def __enter__(self) -> ProviderApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, path: str, parameters: Parameters = ()) -> dict[str, Any]:
        """
        Ask for an object.

        Raises:
            ProviderError: The provider does not answer, or not with the object.
        """
        found = self.find(path, parameters)
        if found is None:
            raise self._error("answers 404: is the address right?", _NOT_FOUND)
        return found

    def find(self, path: str, parameters: Parameters = ()) -> dict[str, Any] | None:
        """
        Ask for an object, and return None if there is none.

        Raises:
            ProviderError: The provider does not answer, or refuses.
        """
        for pause_s in (*self._pauses_s, None):
            try:
                status, asked_s, body = self._ask(path, parameters)
            except (requests.RequestException, OSError, TimeoutError) as exc:
                if pause_s is None:
                    raise self._error(f"does not answer ({type(exc).__name__})") from None
                self._sleep(pause_s)
                continue
            if status == _NOT_FOUND:
                return None
            if status == requests.codes.ok:
                return self._object(body)
            if (status != requests.codes.too_many_requests and status < 500) or pause_s is None:
                raise self._error(_words(status), status)
            self._sleep(max(pause_s, min(asked_s, _LONGEST_PAUSE_S)))
        raise AssertionError("the last try returns or raises")

    def offsets(
        self,
        path: str,
        parameters: Mapping[str, str],
        page: int,
        name: str,
        has_next: Callable[[dict[str, Any]], bool],
        *,
        offset: str = "offset",
    ) -> Iterator[dict[str, Any]]:
        """
        Ask for a list page by page.

        Args:
            page: Objects a page.
            name: The field that holds them.
            has_next: Whether another page follows.
            offset: The parameter for the number of objects to skip.

        Raises:
            ProviderError: The provider does not answer, or refuses.
        """
        seen = 0
        for _ in range(_MOST_PAGES):
            answer = self.get(path, {**parameters, "limit": str(page), offset: str(seen)})
            objects = self.listed(answer, name)
            yield from objects
            seen += len(objects)
            if not objects or not has_next(answer):
                return
        raise self._error(f"has more than {_MOST_PAGES} pages; ask for a shorter time")

    def listed(self, answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """
        The objects of a page.

        Raises:
            ProviderError: The answer has no such list.
        """
        objects = answer.get(name)
        if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
            raise self._error(f"answers without a list {name!r}")
        return objects

    def _ask(self, path: str, parameters: Parameters) -> tuple[int, float, bytes]:
        until = time.monotonic() + _WHOLE_S
        with self._session.get(
            self._url + path,
            params=list(parameters.items()) if isinstance(parameters, Mapping) else list(parameters),
            timeout=(_CONNECT_S, self._answer_s),
            allow_redirects=False,
            stream=True,
        ) as answer:
            body = bytearray()
            for piece in answer.iter_content(65_536):
                body += piece
                if len(body) > _LARGEST_BYTES or time.monotonic() > until:
                    raise TimeoutError("the answer is too long")
            asked = answer.headers.get("Retry-After", "")
            return answer.status_code, float(asked) if asked.isdecimal() else 0.0, bytes(body)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(body, parse_float=Decimal)
        except (ValueError, RecursionError):
            raise self._error("answers something that is not JSON") from None
        if not isinstance(parsed, dict):
            raise self._error("answers something that is not an object")
        return parsed

    def _error(self, words: str, status: int | None = None) -> ProviderError:
        return ProviderError(f"{self._provider}: {self._url} {words}", provider=self._provider, status=status)


def _words(status: int) -> str:
    match status:
        case 401 | 403:
            return f"refuses the key ({status}); correct api_key in the secrets file"
        case 429:
            return "asks for fewer requests (429); try again later"
    return f"answers {status}"
