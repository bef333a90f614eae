"""
Opt-outs from the open replies that Redis could not settle: the ledger knows which tenants wrote to whom.

    the reply quotes a message of ours  the tenant of that message; the ledger finds it, and the phone, by its `key.id`
    the person's phone is known         the tenant that last wrote to it from this instance, else all that ever wrote
    neither                             of an opt-out: all tenants of this instance, else all there are

A reply of the wrong person stays open, with the tenants that wrote to that phone.
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

_BATCH = 100
_INSTANCES = 64


class ReplyResolver:
    """Settles new replies, once the ledger has recorded the events before them."""

    def __init__(self, client: redis.Redis, engine: Engine) -> None:
        self._replies = Replies(client)
        self._engine = engine
        # Cached, since the query takes a while, and anybody can send any number of replies.
        self._tenants_of = functools.lru_cache(_INSTANCES)(functools.partial(queries.tenants_of, engine))

    def settle(self) -> None:
        """
        Settle a batch of new replies.

        Raises:
            LedgerUnavailable, redis.RedisError: Replies not settled yet stay new.
        """
        for reply in self._replies.new(_BATCH):
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
