"""Stop strings: text ends before the first of them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes pieces of text on and ends the text before the first stop string.

    What may be the beginning of a stop string is held back until it is clear that it is none.

    Args:
        stops: non-empty strings.

    Attributes:
        found: the stop string that ended the text; None so far.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that can be shown now."""
        if not self.stops or self.found is not None:
            return "" if self.found is not None else piece
        text = self._held + piece
        places = [(place, stop) for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            # The earliest end decides, as if every character came alone; of two that end together, the longer.
            _, begin, self.found = min((place + len(stop), place, stop) for place, stop in places)
            self._held = ""
            return text[:begin]
        held = max(_overlap(text, stop) for stop in self.stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was held back, when the text ends for another reason."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning, not the whole, of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
