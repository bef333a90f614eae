"""Asking the workers how they are; what they answer is in `worker/inspection.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from kombu import Connection, Producer
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox
from kombu.utils.json import dumps

from ifinu.broker.keys import CONTROL

COMMAND = "ifinu_snapshot"
PATIENCE_S = 1.0  # after the last answer; a worker drops a question that is older than this by its own clock
AWAY = (OperationalError, OSError)  # and redis.RedisError

_OPTIONS = {"priority_steps": [0], "socket_timeout": 5, "socket_connect_timeout": 5, "max_retries": 1}

Answers = dict[tuple[str, int], dict[str, Any]]


class Workers:
    """
    All workers, over Celery's remote control; for one thread.

    Not by a Celery application: that of this process may already have the settings of another Redis, and its pool of
    connections tries for ever.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave Redis; the next question connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may have been lost long ago
                connection.close()

    def ask(self, patience_s: float = PATIENCE_S) -> Answers:
        """
        Ask, and wait until all have answered, or nobody has for a while.

        Args:
            patience_s: That while, in seconds.

        Returns:
            What each worker answers, by its name and process; the process is 0, and there is only `error`, where it
            does not know the question.

        Raises:
            redis.RedisError: Redis is away; so it is for an error of `AWAY`.
        """
        try:
            if self._connection is None:
                ssl = {"ssl_cert_reqs": "required"} if self._url.startswith("rediss://") else None
                self._connection = Connection(
                    self._url, transport="ifinu.broker.transport:Transport", transport_options=_OPTIONS, ssl=ssl
                )
            channel = self._connection.channel()
            try:
                replies = _Question(channel).ask(self._connection, patience_s)
            finally:
                channel.close()
        except BaseException:
            self.close()
            raise
        return {
            (str(name), int(told.get("pid") or 0)): told
            for reply in replies
            for name, told in reply.items()
            if isinstance(told, dict)
        }


class _Answered(Exception):  # noqa: N818 - not an error
    """Nobody is left who could answer."""


class _Question:
    """
    One question, put by a mailbox of Kombu's, with two things done differently.

    Redis tells how many got it, so that nobody is waited for when all have answered. And it is put once: while Redis is
    away, a mailbox would try for ever.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._receivers = 0
        self._replies: list[dict[str, Any]] = []
        channel._put_fanout = self._put_fanout

    def ask(self, connection: Any, patience_s: float) -> list[dict[str, Any]]:
        mailbox = Mailbox(
            CONTROL, type="fanout", connection=connection, accept=["json"], serializer="json", producer_pool=self
        )
        try:
            mailbox.multi_call(COMMAND, timeout=patience_s, channel=self._channel, callback=self._take)
        except _Answered:
            self._channel.after_reply_message_received(mailbox.reply_queue.name)  # deletes it
        return self._replies

    @contextlib.contextmanager
    def acquire(self) -> Iterator[_Question]:
        """As a pool of producers."""
        yield self

    def publish(self, body: Any, **options: Any) -> None:
        """As a producer."""
        Producer(self._channel, auto_declare=False).publish(body, **{**options, "retry": False})
        if not self._receivers:
            raise _Answered

    def _take(self, reply: dict[str, Any]) -> None:
        self._replies.append(reply)
        if len(self._replies) >= self._receivers:
            raise _Answered

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_: Any) -> None:
        with self._channel.conn_or_acquire() as client:
            self._receivers = client.publish(self._channel._get_publish_topic(exchange, routing_key), dumps(message))
