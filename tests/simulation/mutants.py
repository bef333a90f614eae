"""Guards of the code, broken on purpose: the simulation has to notice each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ifinu import delivery
from ifinu.broker.keys import script
from ifinu.broker.leases import Leases
from ifinu.delivery import Delivery
from ifinu.numbers.assignment import Route

IN_LUA: list[tuple[str, str]] = []  # scripts, and the guards in them


def _in_lua(name: str, guard: str, instead: str = "") -> Callable[[], None]:
    IN_LUA.append((name, guard))

    def apply() -> None:
        found = script(name)
        assert found.source.count(guard) == 1, f"{name}.lua: the guard has changed"
        found.source = found.source.replace(guard, instead)
        found.sha = hashlib.sha1(found.source.encode(), usedforsecurity=False).hexdigest()

    return apply


def _in_python(owner: Any, name: str, instead: Any) -> Callable[[], None]:
    def apply() -> None:
        assert hasattr(owner, name), f"{owner.__name__}.{name} is gone"
        setattr(owner, name, instead)

    return apply


def _by_whatever_was_taken(*_: Any, named: str | None, taken: str, default: str, **__: Any) -> Route:
    return Route(taken or named or default, bool(taken))


MUTANTS: dict[str, Callable[[], None]] = {
    "claim: sends what a dead worker was sending": _in_lua(
        "claim",
        "  redis.call('ZADD', KEYS[5], 'NX', since, ARGV[5])\n",
        "  if true then return answer('go') end\n",
    ),
    "claim: sends to a person who opted out": _in_lua(
        "claim", "if out and cjson.decode(out)['confirmation'] ~= ARGV[5] then", "if false then"
    ),
    "resend: as often as it is not found": _in_lua("resend", "elseif was[3] then", "elseif false then"),
    "postpone: of a message that another worker has": _in_lua(
        "postpone",
        "if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then",
        "redis.call('HDEL', KEYS[1], ARGV[1])\nif false then",
    ),
    "settle: an event each time that it is repeated": _in_lua("settle", "if was[1] ~= ARGV[2] then", "if true then"),
    "bury: forgets what a dead worker was sending": _in_lua(
        "bury", "elseif was[1] == 'sending' and", "elseif false and"
    ),
    "no confirmation of the claim before the request": _in_python(Delivery, "_confirm_again", lambda *_: None),
    "settle: a number sends again without its gap": _in_lua(
        "settle", "ARGV[2] == 'sent' and was[1] ~= 'sent'", "false"
    ),
    "sweep: frees no number": _in_lua(
        "sweep", "local at = number and free(queue, number, tag, went_out, u)", "local at = number and now"
    ),
    "postpone: what was not sent counts": _in_lua("postpone", "elseif was_there and taken then", "elseif false then"),
    "give_back: what may have been sent does not count": _in_python(Leases, "doubt", lambda *_: None),
    "fetch: a message overtakes those in its lane": _in_lua("fetch", "  if first then\n", "  if true then\n"),
    "fetch: a cap counts no hour": _in_lua(
        "fetch", "elseif this_hour >= math.ceil(most / 8) then", "elseif false then"
    ),
    "fetch: a held number sends": _in_lua("fetch", "tonumber(n[8]) or 0, since)", "since)"),
    "fetch: a message waits in another tenant's lane": _in_lua(
        "fetch", "aside(queue, number, tenant, message, at, false)", "aside(queue, number, 't1', message, at, false)"
    ),
    "settle: frees no number": _in_lua(
        "settle",
        "at, freed = free(queue, ARGV[11], ARGV[1], went_out, ARGV[12])",
        "at = now",
    ),
    "restarted: no number pauses": _in_lua("restarted", "redis.call('SET', KEYS[3], string.format('%.0f', ends))"),
    "claim: two messages to a person at once": _in_lua(
        "claim", "if last and of_id ~= ARGV[5] and last + ARGV[12] > now then", "if false then"
    ),
    "claim: any number of new chats": _in_lua("claim", "if of[2] and of[2] ~= '' and", "if false and"),
    "claim: any number of reminders": _in_lua(
        "claim", "and redis.call('SCARD', today) >= tonumber(ARGV[11])", "and false"
    ),
    "a message goes by the number that was taken": _in_python(delivery, "route", _by_whatever_was_taken),
    "a number in trouble is not held": _in_python(Leases, "hold_number", lambda *_, **__: None),
    "a look-up asks the number by which it would go now": _in_python(
        Delivery, "_sender", lambda _, message, __: message.instance
    ),
    "give_back: to the end of its lane": _in_lua(
        "give_back",
        "aside(queue, number, tenant, message, at, true)",
        "aside(queue, number, tenant, message, at, false)",
    ),
    "give_back: the newest first": _in_lua("give_back", "for i = #ARGV - 1, 1, -2 do", "for i = 1, #ARGV, 2 do"),
    "sweep: to the end of its lane": _in_lua(
        "sweep", "aside(queue, number, tenant, message, at, true)", "aside(queue, number, tenant, message, at, false)"
    ),
    "postpone: to the end of its lane": _in_lua(
        "postpone",
        "aside(queue, ARGV[8], tenant, ARGV[2], at, true)",
        "aside(queue, ARGV[8], tenant, ARGV[2], at, false)",
    ),
    "hold_number: takes over a hold for another reason": _in_lua(
        "hold_number", "if till > now and lasts and was[2] ~= ARGV[3] then", "if false then"
    ),
    "release_number: ends a hold for another reason": _in_lua(
        "release_number", "(ARGV[2] ~= '' and was[2] ~= ARGV[2])", "false"
    ),
    "fetch: tenants take no turns": _in_lua(
        "fetch",
        "local tenant = redis.call('LMOVE', ring, ring, 'RIGHT', 'LEFT') or ''",
        "local tenant = redis.call('LINDEX', ring, -1) or ''",
    ),
    "fetch: a tenant's weight does not count": _in_lua("fetch", "math.min(100, weight)", "1"),
    "fetch: a cap counts no day": _in_lua("fetch", "if today >= most then", "if false then"),
    "fetch: any number at once": _in_lua(
        "fetch", "if at == now and redis.call('SCARD', key .. ':voo') >= parallel then", "if false then"
    ),
    "fetch: nothing of the lowest queue first": _in_lua(
        "fetch", "serve(open[#open], math.floor(want / 10 + u))", "serve(open[#open], 0)"
    ),
    "fetch: the lowest queue first": _in_lua(
        "fetch",
        "  for _, q in ipairs(open) do\n    serve(q, want)\n  end",
        "  for i = #open, 1, -1 do\n    serve(open[i], want)\n  end",
    ),
    "load_numbers: forgets gaps, holds and brakes": _in_lua("load_numbers", "  if is_new then", "  if true then"),
    "settle: a brake has no effect": _in_lua("settle", "tonumber(u) or 0.5)) / brake)", "tonumber(u) or 0.5)))"),
    "settle: no distance to the next message to a person": _in_lua(
        "settle", "if was[5] and ARGV[2] == 'sent' then", "if false then"
    ),
    "reroute: frees no number": _in_lua("reroute", "if ARGV[2] ~= '' then", "if false then"),
    "move_lane: to another tenant's lane": _in_lua(
        "move_lane", "sticky(others, phone), ARGV[2], messages[i]", "sticky(others, phone), 't1', messages[i]"
    ),
    "move_lane: the newest first": _in_lua("move_lane", "for i = #messages, 1, -1 do", "for i = 1, #messages do"),
    "claim: any number of people in a portfolio": _in_lua(
        "claim", "if most and redis.call('ZCARD', talks) >= most then", "if false then"
    ),
    "claim: a portfolio forgets people early": _in_lua(
        "claim", "talks, '-inf', now - 86400000)", "talks, '-inf', now - 86390000)"
    ),
    "claim: a portfolio forgets no people": _in_lua(
        "claim", "redis.call('ZREMRANGEBYSCORE', talks, '-inf', now - 86400000)"
    ),
    "claim: a portfolio is of one number": _in_lua(
        "claim", "local talks, waits = 'ifinu:grupo:' .. of[3]", "local talks, waits = 'ifinu:grupo:' .. ARGV[9]"
    ),
    "claim: a person counts with each message in a portfolio": _in_lua(
        "claim", "if not redis.call('ZSCORE', talks, ARGV[6]) then", "if true then"
    ),
    "claim: all wait for one place in a portfolio": _in_lua("claim", "most + before", "most"),
}
