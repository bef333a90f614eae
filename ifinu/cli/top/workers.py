"""The workers' answers to one question over Celery's remote control; `worker/inspection.py` lists their fields."""

from __future__ import annotations

import contextlib
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
    All workers that listen at a Redis, for use by one thread.

    A Celery application would not do: the one of this process may be configured for another Redis, and its
    connection pool retries for ever.

    Args:
        url: As `IFINU_REDIS_URL`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect; the next question connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may have been lost long ago
                connection.close()

    def ask(self, patience_s: float = PATIENCE_S) -> Answers:
        """
        Ask all workers for their figures.

        Args:
            patience_s: Seconds to wait for the next answer. All answers at hand end the wait at once.

        Returns:
            The answer of each worker, by its name and process id. A worker of a version that does not know the question
            answers with `error` alone; its process id is 0 here.

        Raises:
            redis.RedisError: Redis is away; the errors of `AWAY` mean the same.
        """
        try:
            if self._connection is None:
                ssl = {"ssl_cert_reqs": "required"} if self._url.startswith("rediss://") else None
                self._connection = Connection(
                    self._url, transport="ifinu.broker.transport:Transport", transport_options=_OPTIONS, ssl=ssl
                )
            with self._connection.channel() as channel:
                mailbox = _Mailbox(
                    CONTROL, type="fanout", connection=self._connection, accept=["json"], serializer="json"
                )
                replies = mailbox.multi_call(COMMAND, timeout=patience_s, channel=channel)
        except BaseException:
            self.close()
            raise
        return {
            (str(name), int(answer.get("pid") or 0)): answer
            for reply in replies
            for name, answer in reply.items()
            if isinstance(answer, dict)
        }


class _Mailbox(Mailbox):  # type: ignore[misc]  # Any to mypy
    """
    A mailbox that stops waiting once every worker has answered, and never retries.

    Redis returns how many workers received the question. Kombu's mailbox ignores that and waits for its timeout; while
    Redis is away, it retries for ever.
    """

    def _publish(self, *arguments: Any, channel: Any, **options: Any) -> None:
        def put_fanout(exchange: str, message: Any, routing_key: str, **_: Any) -> None:
            with channel.conn_or_acquire() as client:
                self._receivers = client.publish(channel._get_publish_topic(exchange, routing_key), dumps(message))

        channel._put_fanout = put_fanout
        super()._publish(*arguments, channel=channel, producer=_Once(channel, auto_declare=False), **options)

    def _collect(self, ticket: str, *, channel: Any, **options: Any) -> Any:
        if not self._receivers:
            channel.after_reply_message_received(self.reply_queue.name)  # deletes the queue
            return []
        return super()._collect(ticket, channel=channel, **{**options, "limit": self._receivers})


class _Once(Producer):  # type: ignore[misc]
    def publish(self, *arguments: Any, **options: Any) -> Any:
        return super().publish(*arguments, **{**options, "retry": False})
