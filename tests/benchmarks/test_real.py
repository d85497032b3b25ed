"""The real model's benchmark: what is asked for before anything starts, and how answers are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evaluation import Accuracy, Outcome
from benchmarks.real import DOMAINS, _source
from benchmarks.real_report import GeneralAnswers, LearnedDomain, Run, lines, summarise, table
from cluster.errors import ClusterError


def answer(text: str, domain: str = "base", status: int = 200) -> Outcome:
    return Outcome(status, text, domain)


def test_general_answers_count_the_base_its_words_and_failures() -> None:
    auto = [answer("a"), answer("b"), answer("c", "work"), answer("", "", 503), answer("e")]
    base = [answer("a"), answer("x"), answer("c"), answer("d"), answer("", "", 0)]
    counted = GeneralAnswers.of(["work", "travel"], auto, base)
    assert (counted.asked, counted.by_the_base, counted.same_text, counted.failed) == (5, 2, 1, 2)
    assert counted.to_domains == {"work": 1}


def test_the_summary_relates_routed_answers_to_those_by_name() -> None:
    run = Run(
        domains=[
            LearnedDomain("work", 600, 90.0, by_name=Accuracy(0.9, 1.0, 0), routed=Accuracy(0.8, 0.9, 0)),
            LearnedDomain("travel", 600, 70.0, by_name=Accuracy(0.7, 1.0, 0), routed=Accuracy(0.7, 1.0, 0)),
        ],
        general=GeneralAnswers(["work", "travel"], 200, 190, 189, 0, {"work": 10}),
        requests=600,
        failed=1,
    )
    result = summarise(run)
    assert (result["exact_match_by_name"], result["exact_match_routed"]) == (0.8, 0.75)
    assert (result["routed_over_by_name"], result["routing_accuracy"]) == (0.9375, 0.95)
    assert (result["general"]["share_by_the_base"], result["general"]["share_same_text"]) == (0.95, 0.9947)
    assert table(result).row_count == 3
    assert "1 of 600 requests failed" in lines(result)[-1]


def test_without_general_questions_and_without_a_right_answer_there_is_a_summary() -> None:
    nothing = Accuracy(0.0, 0.0, 0)
    result = summarise(Run(domains=[LearnedDomain("work", 60, 1.0, by_name=nothing, routed=nothing)]))
    assert (result["routed_over_by_name"], result["general"]) == (None, None)
    assert len(lines(result)) == 2


def test_a_domain_without_data_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"domain work: expected --data DIR"):
        _source(None, "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train.jsonl").touch()
    with pytest.raises(ClusterError, match=r"domain work: expected .*test\.jsonl, got nothing there"):
        _source(tmp_path, "work")


def test_two_of_the_domains_come_with_the_product() -> None:
    def own(name: str) -> bool:
        try:
            return _source(None, name).train.is_file()
        except ClusterError:
            return False

    assert [name for name in DOMAINS if own(name)] == ["german-dates", "service-log"]
