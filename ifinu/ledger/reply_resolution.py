"""
Answers of persons that Redis could not settle -> opt-outs, by what the ledger knows of who wrote to whom.

    it quotes a message of ours    the tenant of that message; the ledger knows it by its `key.id`, and the phone too
    the person's phone is known    the tenant that wrote to it last from this instance, else all that ever wrote to it
    neither                        of a person who wants no more: all tenants of this instance, else all there are

What is told to be a wrong recipient stays open, with the tenants that wrote to that phone.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import redis
import structlog
from sqlalchemy import Engine

from ifinu import phone as phones
from ifinu.broker.keys import EVERY_TENANT
from ifinu.broker.replies import MAYBE, STOP, Replies, Reply
from ifinu.ledger import queries

log = structlog.get_logger(__name__)

_A_TIME = 100
_INSTANCES = 64


class ReplyResolver:
    """
    Settles what is new among the open replies, once the ledger has what had happened by then.

    Args:
        client: A connection to Redis that returns bytes.
        engine: The ledger.
    """

    def __init__(self, client: redis.Redis, engine: Engine) -> None:
        self._replies = Replies(client)
        self._engine = engine
        # Anybody can write SAIR to a number, and to find its tenants takes a while.
        self._tenants_of = functools.lru_cache(_INSTANCES)(functools.partial(queries.tenants_of, engine))

    def settle(self) -> None:
        """
        Settle some of them.

        Raises:
            LedgerUnavailable, redis.RedisError: They stay as they are, and are settled later.
        """
        for reply in self._replies.new(_A_TIME):
            self._settle(reply)
        if self._tenants_of.cache_info().currsize == _INSTANCES:
            self._tenants_of.cache_clear()

    def _settle(self, reply: Reply) -> None:
        quoted = queries.sent_as(self._engine, reply.quoted) if reply.quoted else None
        if quoted is not None and reply.hash is None and quoted.phone_hash is not None:
            reply = replace(reply, hash=quoted.phone_hash, phone=quoted.phone)
        if reply.hash is None or reply.wish == MAYBE:
            self._replies.mark_unresolved(reply)
            return
        tenants = self._tenants(reply, quoted)
        stays = reply.wish != STOP
        if self._replies.settle(reply, tenants, stays=stays):
            instance = phones.mask_in(reply.instance)
            log.info("ifinu.optout.settled", instance=instance, wish=reply.wish, phone=reply.phone, count=len(tenants))

    def _tenants(self, reply: Reply, quoted: queries.SentAs | None) -> list[str]:
        found = list(reply.tenants) if reply.known else []
        if quoted is not None and quoted.phone_hash == reply.hash:
            found.append(quoted.tenant or "")
        if not found:
            writers = queries.writers(self._engine, reply.hash or "")
            here = [tenant for instance, tenant in writers if instance == reply.instance]
            found = here[:1] or [tenant for _, tenant in writers]
        if not found and reply.wish == STOP:
            found = self._tenants_of(reply.instance) or [EVERY_TENANT]
        return list(dict.fromkeys(found))
