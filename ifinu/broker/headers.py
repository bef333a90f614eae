"""
Headers of a message that are ours, beside Celery's own.

    header              on                           value
    ifinu_tag           every message admitted       its delivery tag
    ifinu_queue         every message admitted       the list that it came from
    ifinu_accepted_at   a first message, its retries when a producer handed it over, where that is known (ISO, aware)
    traceparent         any; a key of bare JSON too  its trace (W3C)
    ifinu_token         a retry or a look-up         the token that lets it through to its claim
    ifinu_first_at      a retry or a look-up         when the first try was (ISO, aware)
    ifinu_trouble       a retry or a look-up         its failures so far (`gateway.instances.Trouble`)
    ifinu_suspect       one that may kill workers    its digest
    ifinu_linha         an envelope of ours          its tenant, instance and phone, for the scripts (`lanes.line`)
    ifinu_numero        every message admitted       the number whose pace it keeps; absent without one
    ifinu_wait_ms       one being published          how long it waits, in ms; Redis adds it to its own clock, while an
                                                     `eta` would go by this machine's

The last one is removed before the message is written to Redis.
"""

from __future__ import annotations

TAG = "ifinu_tag"
QUEUE = "ifinu_queue"
ACCEPTED = "ifinu_accepted_at"
TRACEPARENT = "traceparent"
TOKEN = "ifinu_token"  # noqa: S105 - a header's name
FIRST_TRY = "ifinu_first_at"
TROUBLE = "ifinu_trouble"
SUSPECT = "ifinu_suspect"
LINE = "ifinu_linha"
NUMBER = "ifinu_numero"
WAIT = "ifinu_wait_ms"
