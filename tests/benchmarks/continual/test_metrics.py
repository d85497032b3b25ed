"""Metrics against values that others published or that can be worked out by hand."""

import pytest

from benchmarks.continual.metrics import METRICS, edit_similarity, first_character, rouge_l
from benchmarks.continual.simplification import components, sari

SOURCE = "About 95 species are currently accepted ."
REFERENCES = (
    "About 95 species are currently known .",
    "About 95 species are now accepted .",
    "95 species are now accepted .",
)
ANSWER = "About 95 you now get in ."


def test_sari_is_that_of_the_published_example() -> None:
    """The card of Hugging Face's metric and EASSE's README: 26.953601953601954."""
    assert 100 * sari(SOURCE, ANSWER, REFERENCES) == pytest.approx(26.953601953601954, abs=1e-9)


def test_saris_parts_are_those_of_the_published_example() -> None:
    """flexeval's documentation of the same example."""
    keep, delete, add = (
        sum(part) / 4 for part in zip(*(components(SOURCE, ANSWER, REFERENCES, n) for n in (1, 2, 3, 4)), strict=True)
    )
    assert (keep, delete, add) == pytest.approx((0.22527472527472525, 0.5, 0.08333333333333333))


def test_sari_of_one_reference_is_that_of_wiki_splits_card() -> None:
    assert 100 * sari(SOURCE, ANSWER, REFERENCES[:1]) == pytest.approx(21.805555555555557, abs=1e-9)


def test_sari_of_the_reference_itself_is_whole() -> None:
    assert sari(SOURCE, REFERENCES[1], [REFERENCES[1]]) == 1.0


def test_rouge_l_is_the_f_measure_of_the_longest_common_words() -> None:
    # 4 words in common of 5 and 6: 2 * 4 / 11.
    assert rouge_l("the cat on a mat", "the cat sat on the mat") == pytest.approx(8 / 11)


def test_edit_similarity_counts_insertions_and_deletions() -> None:
    # "abcd" -> "abed": one deleted, one inserted, of eight characters.
    assert edit_similarity("abcd", "abed") == pytest.approx(1 - 2 / 8)


def test_the_first_character_is_the_letter_of_the_choice() -> None:
    assert first_character(" B, because", "B") == 1.0
    assert first_character("A", "B") == 0.0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_reference_is_worth_one_and_nothing_is_worth_none(name: str) -> None:
    metric = METRICS[name]
    assert metric.of("a plain answer", "a plain answer", "a question that is plain") == pytest.approx(1.0)
    assert metric.of("", "a plain answer", "a question that is plain") == 0.0
