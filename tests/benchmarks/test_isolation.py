"""The benchmark of isolation, small: every marker comes to its publication, on a clock of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks.isolation import CASES, Load, measure, table


@pytest.mark.slow
def test_every_marker_is_answered_and_the_clock_is_given_back(tmp_path: Path) -> None:
    before = os.fsync, time.monotonic
    load = Load(domains=2, learners=4, period=4.0, service=1.0, seconds=8.0, rounds=1)
    result = measure(tmp_path, load)
    assert (os.fsync, time.monotonic) == before
    figures = result["seconds_from_marker_to_published"]
    sent = {case: figures[case]["markers"] for case in CASES}
    assert min(sent.values()) >= 2 and len(set(sent.values())) == 1, "each case has the same moments"
    assert all(load.service < figures[case]["p50"] <= figures[case]["p99"] for case in CASES)
    assert result["trainings_of_junk"] and result["trainings_of_flood"]
    assert all(word in table(result) for word in ("nobody", "flood", "junk"))
