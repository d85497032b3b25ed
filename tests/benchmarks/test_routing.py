"""The routing study's own logic: splits, length matching, figures on rows whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import routing_texts as texts
from benchmarks.routing_bench import over_seeds
from benchmarks.routing_features import FeatureMap, Model, PooledTexts
from benchmarks.routing_figures import RouterSetting, Rows, checked, figures, learnt, served
from learning import calibration, general
from learning.heads import BACKGROUND

CORPUS = texts.Corpus("made", ("a", "b"), (20, 10), (5, 4), tuple(f"text {place}" for place in range(39)))


@given(st.integers(0, 1000), st.booleans())
def test_a_split_uses_every_row_once_under_its_own_domain(seed: int, mixed: bool) -> None:
    split = texts.split(CORPUS, seed, mixed=mixed)
    places = np.concatenate([split.fit, split.held, split.test])
    labels = [*split.fit_labels, *split.held_labels, *split.test_labels]
    assert sorted(places) == list(range(39))
    assert all(label == ("a" if place < 25 else "b") for place, label in zip(places, labels, strict=True))
    assert (len(split.held), len(split.test)) == (3, 9)


def test_judged_rows_stay_judged_unless_mixed() -> None:
    split = texts.split(CORPUS, 3)
    assert sorted(split.test) == [*range(20, 25), *range(35, 39)]
    assert sorted(texts.split(CORPUS, 3, mixed=True).test) != sorted(split.test)
    assert set(texts.split(CORPUS, 3, ["b"]).fit_labels) == {"b"}


@given(st.lists(st.integers(1, 6), max_size=30), st.lists(st.integers(1, 6), max_size=30))
def test_matched_texts_have_one_histogram_of_lengths_and_leave_none_out(inside: list[int], outer: list[int]) -> None:
    sides = [[" ".join(["w"] * count) for count in side] for side in (inside, outer)]
    chosen = texts.length_matched(sides[0], sides[1])
    found = [sorted(side[place] for place in places) for side, places in zip((inside, outer), chosen, strict=True)]
    assert found[0] == found[1]
    assert len(found[0]) == sum(min(inside.count(length), outer.count(length)) for length in range(1, 7))
    assert all(len(set(places)) == len(places) for places in chosen)


def _rows(away: float) -> Rows:
    """Two domains along two axes, general text along a third, what is outside along a fourth."""
    chance = np.random.default_rng(0)

    def about(axis: int, count: int, size: float = 3.0) -> np.ndarray:
        rows_ND: np.ndarray = size * np.eye(6)[axis] + 0.1 * chance.standard_normal((count, 6))
        return rows_ND

    labels = ["a"] * 40 + ["b"] * 40
    fit, held, test = (np.concatenate([about(0, 40), about(1, 40)]) for _ in range(3))
    outer = {"outside": about(3, 30, away), "questions": about(2, 30)}
    return Rows(fit, labels, held, labels, test, labels, about(2, 20), outer)


def test_separate_domains_are_routed_right_and_what_is_elsewhere_is_left_to_the_base() -> None:
    rows = _rows(3.0)
    choice = RouterSetting(ridge=1.0)
    found = figures(served(learnt(rows, choice), rows, "both"), rows, (np.arange(10), np.arange(10)))
    assert found["routing"] == found["routing_held_out"] == 1.0
    assert found["outside_auroc"] == found["outside_rejected"] == found["questions_rejected"] == 1.0
    assert found["outside_auroc_length_matched"] == 1.0
    assert 0.85 < found["kept"] <= 1.0


def test_the_background_is_a_class_only_where_it_has_texts() -> None:
    rows = _rows(3.0)
    for count, times, expected in ((0, 3, 0), (5, 1, 5), (5, 3, 15), (10**6, 1, 20)):
        counts = learnt(rows, RouterSetting(ridge=1.0, texts=count, times=times)).counts
        assert counts.get(BACKGROUND, 0) == expected


def test_a_check_raises_the_threshold_above_general_text_that_looks_like_a_domain() -> None:
    rows = _rows(3.0)
    router = served(learnt(rows, RouterSetting(ridge=1.0, texts=0)), rows, "top")
    far = checked(router, rows)
    assert far["questions_rejected"] == 1.0
    assert far["kept"] == figures(router, rows)["kept"]
    near = checked(router, replace(rows, general_ND=rows.held_ND))
    assert near["kept"] < 0.2


def test_means_and_deviations_over_seeds() -> None:
    found = over_seeds([{"x": 1.0}, {"x": 3.0}])
    assert found == {"runs": 2, "mean": {"x": 2.0}, "sd": {"x": round(2**0.5, 4)}}
    assert over_seeds([{"x": 1.0}])["sd"] == {}


def test_pooled_texts_are_chosen_by_depth_and_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("made", "nowhere", (2, 5), encoder=True)
    whole = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    calibrating = np.random.default_rng(0).standard_normal((len(calibration.prompts()), 2, 3, 4)).astype(np.float32)
    kept = {2: whole, len(calibration.prompts()): calibrating}
    store = PooledTexts(tmp_path)
    monkeypatch.setattr(store, "pooled", lambda _model, prompts: kept[len(prompts)])
    found = store.features(FeatureMap(model, (5,), ("max",), width=0))(["x", "y"])
    inputs = calibrating[:, 1, 1].astype(np.float64)
    expected = (whole[:, 1, 1] - inputs.mean(axis=0)) / inputs.std(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    scaled = store.features(FeatureMap(model, (5,), ("max",), width=0), ("x", "y"))(["x", "y"])
    np.testing.assert_allclose(scaled, [[-1.0] * 4, [1.0] * 4], rtol=1e-6)


def test_general_text_and_general_questions_have_nothing_in_common() -> None:
    asked = [json.loads(line) for line in texts.QUESTIONS.read_text(encoding="utf-8").splitlines()]
    assert len(asked) == len({row["prompt"] for row in asked}) == 200
    known = {text.strip().lower() for text in (*general.prompts(), *calibration.prompts())}
    assert not known & {row["prompt"].strip().lower() for row in asked}
    assert len(set(general.prompts())) == len(general.prompts())
