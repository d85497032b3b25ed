"""What an answer is worth, 0 to 1, by a task's metric.

`exact` needs no generation: it is whether greedy decoding gives the completion (`learning.completion_loss`). The others
score generated text; an empty answer scores 0, as in TRACE's scripts. ROUGE-L is torchmetrics' (F-measure; lower case,
letters and digits of English only), edit similarity rapidfuzz' normalised indel ratio. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.continual.simplification import sari


@dataclass(frozen=True)
class Metric:
    """`score(answer, reference, prompt)`, 0 to 1; None where the greedy answer need not be made."""

    score: Callable[[str, str, str], float] | None
    tokens: int | None = None
    """Most tokens of an answer that it looks at; None looks at all."""

    def of(self, answer: str, reference: str, prompt: str) -> float:
        """An answer's score. The metric is one of those that need it made."""
        if self.score is None:
            return float(answer == reference)
        return self.score(answer, reference, prompt) if answer.strip() else 0.0


def rouge_l(answer: str, reference: str, prompt: str = "") -> float:
    """F-measure of the longest common subsequence of words (Lin, 2004)."""
    from torchmetrics.functional.text import rouge_score  # takes seconds to import

    return float(rouge_score(answer, reference, rouge_keys="rougeL")["rougeL_fmeasure"])


def edit_similarity(answer: str, reference: str, prompt: str = "") -> float:
    """1 - (insertions and deletions) / (both lengths), in characters."""
    from rapidfuzz import fuzz

    return float(fuzz.ratio(answer, reference)) / 100.0


def first_character(answer: str, reference: str, prompt: str = "") -> float:
    """Whether both begin with the same character after white space: the letter of a choice."""
    return float(answer.strip()[:1] == reference.strip()[:1])


METRICS = {
    "exact": Metric(None),
    "rouge_l": Metric(rouge_l),
    "edit_similarity": Metric(edit_similarity),
    "sari": Metric(lambda answer, reference, prompt: sari(prompt, answer, [reference])),
    "first_character": Metric(first_character, tokens=4),
}
