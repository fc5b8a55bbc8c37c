"""What a verdict is made of: sentences with evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireassay.report.runs import Run, Source

MOST = 8  # items that a sentence lists; tables have all


@dataclass(frozen=True)
class Finding:
    """What is said, where its evidence is shown (anchor, words), and the files that hold its numbers."""

    text: str
    evidence: list[tuple[str, str]]
    sources: list[Source]
    run: int | None = None  # the potential it is about, when it is about one


def names(runs: Sequence[Run]) -> str:
    """The labels as in a sentence, some of them when they are many."""
    return some([run.label for run in runs])


def some(items: Sequence[str]) -> str:
    """As `joined`, but of more than `MOST` only the first, and how many others."""
    if len(items) <= MOST:
        return joined(items)
    return f"{', '.join(items[: MOST - 1])} and {len(items) - MOST + 1} others"


def joined(items: Sequence[str]) -> str:
    """Words as in a sentence: a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
