"""
The instance by which a message goes.

    the message names an instance       that one
    else its tenant has numbers         the one that the fetch took for it, or the same one for each message to a person
    else                                the instance of the settings

A tenant never writes through another tenant's number, whoever names it: the message's producer, the settings, or a lane
that the message stood in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from ifinu.errors import UnknownInstance, WrongTenant
from ifinu.numbers.directory import Directory


class Route(NamedTuple):
    """
    The way of a message.

    Attributes:
        instance: WhatsApp instance that sends it.
        paced: Whether that is a registered number, whose pace is kept.
    """

    instance: str
    paced: bool


def route(
    directory: Directory,
    *,
    tenant: str | None,
    named: str | None,
    phone: str,
    taken: str,
    default: str,
    registered_only: bool,
) -> Route:
    """
    Choose the instance.

    Args:
        directory: What is registered.
        tenant: The message's tenant.
        named: The instance that the message names.
        phone: The recipient, in E.164.
        taken: The number whose pace the fetch took for it, or empty.
        default: The instance of the settings.
        registered_only: Whether nothing goes by an instance that is not registered.

    Raises:
        WrongTenant: The instance is another tenant's.
        UnknownInstance: It is not registered, and has to be.
    """
    if named is None:
        if directory.number(taken) is not None and directory.allowed(tenant, taken):
            return Route(taken, paced=True)
        if own := directory.numbers_of(tenant):
            return Route(sticky(own, phone), paced=True)
    name = named or default
    if directory.number(name) is None:
        if registered_only:
            raise UnknownInstance("instance", "is not registered: `ifinu instance list` shows those that are")
        return Route(name, paced=False)
    if not directory.allowed(tenant, name):
        raise WrongTenant("instance", "belongs to another tenant")
    return Route(name, paced=True)


def sticky(names: Sequence[str], phone: str) -> str:
    """
    The one of several numbers that writes to a person: the same as long as it is among them (rendezvous hashing).

    Args:
        names: Names of the numbers, at least one.
        phone: The recipient. Its last eight digits decide, as in `fetch.lua`: they are the same in every spelling.
    """
    person = "".join(filter(str.isdigit, phone))[-8:]
    return max(names, key=lambda name: hashlib.sha1(f"{name} {person}".encode(), usedforsecurity=False).hexdigest())
