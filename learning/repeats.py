"""Which of a job's examples are used: none twice, and none to train on that something is judged by.

Prompts are compared after folding case and white space. Does not know how examples are learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from learning.contract import Example

_Row = TypeVar("_Row")


def without_repeats(train: Sequence[Example], judges: Iterable[Example]) -> tuple[list[Example], int]:
    """The training examples once each, less those that ask what a judging one asks; and how many of the latter."""
    asked = {_folded(example.prompt) for example in judges}
    free = [example for example in train if _folded(example.prompt) not in asked]
    once: dict[tuple[str, str], Example] = {}
    for example in free:
        once.setdefault((example.prompt, example.completion), example)
    return list(once.values()), len(train) - len(free)


def in_force(exam: Sequence[Example], news: Iterable[Example]) -> list[Example]:
    """The exam's examples whose prompt does not come again with another completion: a correction can be learned."""
    answers: dict[str, set[str]] = {}
    for example in news:
        answers.setdefault(_folded(example.prompt), set()).add(example.completion)
    return [example for example in exam if answers.get(_folded(example.prompt), set()) <= {example.completion}]


def spread(examples: Sequence[_Row], most: int) -> list[_Row]:
    """At most so many of them, evenly spaced.

    >>> spread(range(10), 3)
    [0, 3, 6]
    """
    count = min(most, len(examples))
    return [examples[number * len(examples) // count] for number in range(count)]


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
