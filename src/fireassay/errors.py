"""The exception that means "your input, not our code", and the one that means "asked to stop"."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what was found, what is needed, what to do.

    The command line prints it without a traceback and exits with code 2. Line breaks, as in printed arrays, become
    blanks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()) if "\n" in message else message)


class DataWarning(UserWarning):
    """Something about a data file that the user should know and that does not forbid to use it: one line."""


class Interrupted(KeyboardInterrupt):
    """The user or the queue asked to stop; the work so far is saved and continues when the command is repeated.

    The command line prints the message without a traceback and exits with `exit_code`, 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
        self.exit_code = 128 + signal


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'cutoff'?)", or an empty string when nothing is near."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
