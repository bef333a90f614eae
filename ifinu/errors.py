"""
Everything ifinu can raise, named by what the caller may do next.

* IfinuError
  - ConfigurationError       fix the environment or the arguments; the CLI exits with 2
  - InvalidNotification      it can never be sent as it is: fix `.field`, or dead-letter it
  - BrokerUnavailable        Redis did not answer in time: nothing is known to be lost, try again
  - GatewayError             the Evolution API did not do what was asked: `.status`, `.answer`, `.instance`
    + SendError              ... and it was a send
      · NotSent              nothing reached WhatsApp: safe to send again
      · Throttled            nothing reached WhatsApp, the number is too fast: `.retry_after_s`
      · MaybeSent            the answer was lost: never send again blindly
      · Refused              no, and no again next time
      · Misconfigured        key, instance or route is wrong: mend it; messages can wait
"""

from __future__ import annotations


class IfinuError(Exception):
    """Root of the tree above."""


class ConfigurationError(IfinuError):
    """The environment or the arguments are wrong; the message says which and how to mend it."""


class InvalidNotification(IfinuError):  # noqa: N818 - the vocabulary of the design, not a failure of the program
    """
    A notification that can never be sent as it stands.

    Args:
        field: Name of the field at fault, as the producer spelled it (`phone` in Python, `telefone` on the wire);
            empty when no single field is.
        reason: What is wrong with it, without repeating personal data.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidNotification], tuple[str, str]]:
        return type(self), (self.field, self.reason)


class BrokerUnavailable(IfinuError):  # noqa: N818
    """Redis could not be reached, or refused the write (for example because it is full)."""


class GatewayError(IfinuError):
    """
    The Evolution API did not do what was asked.

    Args:
        message: What happened, in one line, with phones masked and no key.
        instance: Name of the WhatsApp instance.
        status: HTTP status, or None when no answer came.
        answer: The gateway's own words, shortened, with phones masked.
    """

    def __init__(
        self, message: str, *, instance: str | None = None, status: int | None = None, answer: str = ""
    ) -> None:
        super().__init__(message)
        self.instance = instance
        self.status = status
        self.answer = answer


class SendError(GatewayError):
    """One attempt to send failed; the subclass says what that proves."""


class NotSent(SendError):  # noqa: N818
    """Nothing reached WhatsApp: it is safe to send again."""


class Throttled(SendError):  # noqa: N818
    """Nothing reached WhatsApp because this number sends too fast; wait `retry_after_s` seconds."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float,
        instance: str | None = None,
        status: int | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(message, instance=instance, status=status, answer=answer)
        self.retry_after_s = retry_after_s


class MaybeSent(SendError):  # noqa: N818
    """The request left and the answer was lost or ambiguous: it must not be sent again blindly."""


class Refused(SendError):  # noqa: N818
    """The gateway says no to this message, and would say no again."""


class Misconfigured(SendError):  # noqa: N818
    """The key, the instance or the route is wrong; every message of this instance would fail alike."""
