"""SARI: what a simplification keeps, deletes and adds, against references (Xu et al., TACL 4, 2016).

Per n-gram order 1 to 4, with every reference's n-grams counted as often as there are references of the answer's:

    keep: F1 of what source and answer share;  delete: precision of what the answer leaves out;  add: F1 of what it adds

and SARI is the mean of the three and of the orders, where 0/0 counts as 1. This is the variant of Hugging Face's
`evaluate`, TRACE's, with the mended recall of keeping. Own code, as `evaluate` fetches its code from the hub when it is
called, and neither torchmetrics nor sacrebleu has it; tests hold it to published values. Words are runs of letters and
digits, and every other character by itself, in lower case. Knows no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_ORDERS = (1, 2, 3, 4)
_WORD = re.compile(r"\w+|[^\w\s]")
Grams = Counter[tuple[str, ...]]


def sari(source: str, answer: str, references: Sequence[str]) -> float:
    """SARI of one answer, 0 to 1; `references` has one at least."""
    parts = [components(source, answer, references, order) for order in _ORDERS]
    return sum(sum(part) for part in parts) / (3 * len(parts))


def components(source: str, answer: str, references: Sequence[str], order: int) -> tuple[float, float, float]:
    """Keep, delete and add of one n-gram order."""
    many = len(references)
    wanted: Grams = sum((_grams(reference, order) for reference in references), Counter())
    before, after = _grams(source, order), _grams(answer, order)
    had, has = _times(before, many), _times(after, many)
    keep, to_keep = had & has, had & wanted
    right = keep & to_keep
    kept = _f1(_ratio(sum(right[g] / keep[g] for g in right), len(keep)), _ratio(right.total(), to_keep.total()))
    gone = had - has
    deleted = _ratio(sum(count / gone[g] for g, count in (gone - wanted).items()), len(gone))
    new, to_add = set(after) - set(before), set(wanted) - set(before)
    found = len(new & to_add)
    return kept, deleted, _f1(_ratio(found, len(new)), _ratio(found, len(to_add)))


def _grams(text: str, order: int) -> Grams:
    words = _WORD.findall(text.lower())
    return Counter(tuple(words[start : start + order]) for start in range(len(words) - order + 1))


def _times(grams: Grams, factor: int) -> Grams:
    return Counter({gram: count * factor for gram, count in grams.items()})


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
