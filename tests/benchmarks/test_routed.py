"""The benchmark of routing: what is compared with what, and prompts that nobody has seen."""

from __future__ import annotations

import itertools

from benchmarks.routed import _LEARNED, DOMAINS, REQUESTS, Pass, _questions, _rows, summary


def test_each_way_is_held_against_the_name_of_the_same_round() -> None:
    def round_(requests: int, cpu: float, first: float) -> dict[str, float]:
        return Pass(requests, 10.0, cpu, (first, first, 9.0)).figures()

    ways = {
        "named": [round_(100, 0.1, 0.02), round_(50, 0.2, 0.04), round_(80, 0.1, 0.03)],
        "routed": [round_(98, 0.3, 0.03), round_(40, 0.2, 0.04), round_(80, 0.2, 0.035)],
        "again": [round_(100, 0.1, 0.02)] * 3,
    }
    found = summary(ways)
    assert found["named"] == {"requests_per_second": 8.0, "cpu_ms_per_request": 1.25, "first_token_ms_p50": 30.0}
    # 0.98, 0.8 and 1.0; 3.06 - 1, 5 - 4 and 2.5 - 1.25; 10, 0 and 5.
    assert found["routed_against_named"] == {
        "requests_ratio": 0.98,
        "cpu_ms_more": 1.25,
        "first_token_ms_more": 5.0,
    }


def test_there_are_new_prompts_for_six_rounds() -> None:
    learned = {row.prompt for domain in DOMAINS for row in _rows(domain)[:_LEARNED]}
    asked = [question.prompt for question in itertools.islice(_questions(), 6 * sum(REQUESTS.values()))]
    assert len(asked) == len(set(asked)) == 6 * sum(REQUESTS.values())
    assert not learned & set(asked)
