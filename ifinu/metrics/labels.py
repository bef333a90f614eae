"""Label values that stay few, and hold nothing personal."""

from __future__ import annotations

from collections.abc import Mapping

from ifinu import phone

MOST = 100
NAMED = 20
OTHER = "other"


class Bounded:
    """
    Names from elsewhere as values of a label: the first hundred as they are, phones in them masked, and `other`.

    An instance may be named after its phone, and there may be any number of them; Prometheus keeps each value for ever.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._labels: dict[str, str] = {}

    def __call__(self, name: str | None) -> str:
        name = name or ""
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._most:
                return OTHER
            label = self._labels[name] = phone.mask_in(name)
        return label


def highest(figures: Mapping[str, int]) -> dict[str, int]:
    """
    The twenty highest figures of numbers, phones in their names masked.

    There may be thousands of numbers, and any of them may need attention, so the first hundred would be the wrong ones.
    """
    found: dict[str, int] = {}
    for name in sorted(figures, key=lambda each: (-figures[each], each))[:NAMED]:
        label = phone.mask_in(name)
        found[label] = max(figures[name], found.get(label, 0))
    return found
