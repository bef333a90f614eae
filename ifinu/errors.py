"""
Everything ifinu can raise, named by what the caller may do next.

* IfinuError
  - ConfigurationError       fix the environment or the arguments; the CLI exits with 2
  - InvalidNotification      it can never be sent as it is: fix `.field`, or dead-letter it
    + IdReused               its id belongs to other content: give it another id
    + Poison                 several workers in a row died of it: find the cause before you replay it
    + WrongTenant            it would go by another tenant's number: name one of its own, or none
    + UnknownInstance        its instance is not registered, and IFINU_NUMBERS asks for that: register it
  - InvalidBilling           a tenant, customer, charge, rule or payment cannot be as given: fix `.field`
    + NotFound               there is none with that id: `.likely` is the one that was probably meant
  - BrokerUnavailable        Redis did not answer in time: nothing is known to be lost, try again
  - LedgerUnavailable        the database did not answer, or lacks the ledger's tables: sending goes on without it
  - BackupFailed             a backup could not be made, is incomplete, or could not be restored
  - ProviderError            a payment provider did not answer, or refused: `.provider`, `.status`
  - GatewayError             the Evolution API did not do what was asked: `.status`, `.answer`, `.instance`
    + SendError              ... and it was a send; `.reason` is one word of `Reason`
      · NotSent              nothing reached WhatsApp: safe to send again
      · Throttled            nothing reached WhatsApp, the number is too fast: `.retry_after_s`
      · MaybeSent            the answer was lost: never send again blindly
      · Refused              no, and no again next time
      · Misconfigured        key, instance or route is wrong: fix it; messages can wait
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why a send failed, in one stable word: the reason in the DLQ and the label of a metric."""

    # Refused
    NUMBER_NOT_ON_WHATSAPP = "number_not_on_whatsapp"  # wrong now and then: ask once more later
    INVALID_REQUEST = "invalid_request"
    GROUP_NOT_FOUND = "group_not_found"
    TOO_LARGE = "too_large"
    CANNOT_RECEIVE = "cannot_receive"  # Meta's: no WhatsApp, an old one, or terms not accepted
    NEEDS_TEMPLATE = "needs_template"  # Meta's: the person has not written for 24 hours
    REFUSED_BY_META = "refused_by_meta"  # for any other reason

    # Misconfigured
    UNAUTHORIZED = "unauthorized"
    INSTANCE_NOT_FOUND = "instance_not_found"
    ROUTE_NOT_FOUND = "route_not_found"  # the URL is not that of an Evolution API
    REDIRECTED = "redirected"  # e.g. http:// where the gateway wants https://
    LICENSE_REQUIRED = "license_required"  # 2.4 before it is activated
    META_UNAUTHORIZED = "meta_unauthorized"  # the instance's token at Meta has expired, or lacks a right
    NUMBER_NOT_REGISTERED = "number_not_registered"  # Meta does not know the sender, or not yet
    ACCOUNT_RESTRICTED = "account_restricted"  # Meta has blocked the sender's account, or was not paid

    # Throttled
    RATE_OVERLIMIT = "rate_overlimit"  # WhatsApp's word
    TOO_MANY_REQUESTS = "too_many_requests"  # a proxy's, or Meta's
    PAIR_LIMIT = "pair_limit"  # Meta's, for messages to one person

    # NotSent
    UNREACHABLE = "unreachable"
    CONNECTION_CLOSED = "connection_closed"  # the instance has lost WhatsApp
    NEVER_CONNECTED = "never_connected"  # the instance has not connected since the gateway started
    WRONG_SHARD = "wrong_shard"  # another gateway process holds the instance
    LOOKUP_TIMEOUT = "lookup_timeout"  # WhatsApp did not say in time whether the number exists
    GATEWAY_DATABASE = "gateway_database"  # the gateway's own database is away
    GATEWAY_ERROR = "gateway_error"  # any other 500
    META_UNAVAILABLE = "meta_unavailable"  # Meta's own outage
    UNAVAILABLE = "unavailable"  # a proxy found no gateway behind it

    # MaybeSent
    TIMEOUT = "timeout"  # no answer in time
    CONNECTION_LOST = "connection_lost"
    SEND_TIMEOUT = "send_timeout"  # the gateway itself gave up waiting for WhatsApp
    SEND_FAILED = "send_failed"  # the gateway failed during the send, or just after it
    GATEWAY_5XX = "gateway_5xx"  # a proxy lost the gateway: 502, 504 and their like
    UNEXPECTED_ANSWER = "unexpected_answer"  # success without a message id
    UNKNOWN = "unknown"  # any of these, and a look-up did not find it: a person decides


class IfinuError(Exception):
    """Root of the tree above."""


class ConfigurationError(IfinuError):
    """The environment or the arguments are wrong; the message says what is wrong and how to fix it."""


class InvalidNotification(IfinuError):  # noqa: N818 - the vocabulary of the design, not a failure of the program
    """
    A notification that can never be sent as it stands.

    Args:
        field: Name of the field at fault, as the producer spelled it (`phone` in Python, `telefone` on the
            wire); empty when no single field is.
        reason: What is wrong with it, without repeating personal data.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidNotification], tuple[str, str]]:
        return type(self), (self.field, self.reason)


class IdReused(InvalidNotification):
    """The id was used before, for a notification that says something else."""


class Poison(InvalidNotification):
    """Several workers in a row died while they had this message."""


class WrongTenant(InvalidNotification):
    """It would go by a number that belongs to another tenant."""


class UnknownInstance(InvalidNotification):
    """Its instance is not registered, and only registered ones may send."""


class InvalidBilling(IfinuError):  # noqa: N818
    """
    A tenant, customer, charge, rule or payment that cannot be as it was given.

    Args:
        field: Name of the field at fault; empty when no single field is.
        reason: What is wrong with it, without repeating personal data.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidBilling], tuple[str, str]]:
        return type(self), (self.field, self.reason)


class NotFound(InvalidBilling):
    """
    There is no tenant, customer or charge with that id.

    Args:
        field: What was looked for, such as `charge`.
        id_: The id that does not exist.
        likely: The id that was probably meant, or None.
    """

    def __init__(self, field: str, id_: str, likely: str | None = None) -> None:
        hint = f"; did you mean {likely!r}?" if likely else ""
        super().__init__(field, f"there is no {field} {id_!r}{hint}")
        self.id = id_
        self.likely = likely

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[type[NotFound], tuple[str, str, str | None]]:  # type: ignore[override]
        return type(self), (self.field, self.id, self.likely)


class BrokerUnavailable(IfinuError):  # noqa: N818
    """Redis could not be reached, or refused the write (for example because it is full)."""


class LedgerUnavailable(IfinuError):  # noqa: N818
    """The ledger's database could not be reached in time, or is not migrated; events wait in the stream."""


class BackupFailed(IfinuError):  # noqa: N818
    """A backup could not be made, is incomplete, or could not be restored; an incomplete one never looks complete."""


class ProviderError(IfinuError):
    """
    A payment provider's API did not answer, or refused.

    Args:
        message: What happened, in one line, without the key.
        status: HTTP status, or None when no answer came.
    """

    def __init__(self, message: str, *, provider: str, status: int | None = None) -> None:
        super().__init__(message)
        self.provider = provider
        self.status = status


class GatewayError(IfinuError):
    """
    The Evolution API did not do what was asked.

    Args:
        message: What happened, in one line, with phones masked and no key.
        instance: Name of the WhatsApp instance.
        status: HTTP status, or None when no answer came.
        answer: The gateway's answer, shortened, with phones masked.
    """

    def __init__(
        self, message: str, *, instance: str | None = None, status: int | None = None, answer: str = ""
    ) -> None:
        super().__init__(message)
        self.instance = instance
        self.status = status
        self.answer = answer


class SendError(GatewayError):
    """
    One attempt to send failed; the subclass says what that proves.

    Args:
        message: As in GatewayError.
        reason: Why, in one word.

    Attributes:
        took_s: How long the gateway took to answer, in seconds; None when no request was made.
    """

    took_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.UNEXPECTED_ANSWER,
        instance: str | None = None,
        status: int | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(message, instance=instance, status=status, answer=answer)
        self.reason = reason


class NotSent(SendError):  # noqa: N818
    """Nothing reached WhatsApp: it is safe to send again."""


class Throttled(SendError):  # noqa: N818
    """Nothing reached WhatsApp because this number sends too fast; wait `retry_after_s` seconds."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        reason: Reason = Reason.RATE_OVERLIMIT,
        instance: str | None = None,
        status: int | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(message, reason=reason, instance=instance, status=status, answer=answer)
        self.retry_after_s = retry_after_s


class MaybeSent(SendError):  # noqa: N818
    """The request left and the answer was lost or ambiguous: it must not be sent again blindly."""


class Refused(SendError):  # noqa: N818
    """The gateway refused this message, and would refuse it again."""


class Misconfigured(SendError):  # noqa: N818
    """The key, the instance or the route is wrong; every message of this instance would fail alike."""
