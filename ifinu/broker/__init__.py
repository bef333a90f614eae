"""The queue: a Kombu transport on Redis that loses no message, its keys and its dead letters."""

from ifinu.broker.dead_letters import DeadLetter, DeadLetters, Filter
from ifinu.broker.keys import LOW, NORMAL, QUEUES, URGENT, Keys

__all__ = ["LOW", "NORMAL", "QUEUES", "URGENT", "DeadLetter", "DeadLetters", "Filter", "Keys"]
