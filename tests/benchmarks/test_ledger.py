"""The benchmarks of the ledger at a small size, in this process: they run through, and what is not a time holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import digests, ledger


@pytest.fixture(autouse=True)
def _within_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ledger, digests):
        monkeypatch.setattr(module, "apart", lambda work, *arguments: work(*arguments))


def test_a_publication_writes_what_is_new_and_a_removal_leaves_no_trace(tmp_path: Path) -> None:
    found = ledger.measure(tmp_path, [4, 12], ledger.Size(dim=64, rows=20))
    few, many = found["publication"]
    assert few["bytes_written"]["segments_of_the_domain"] == many["bytes_written"]["segments_of_the_domain"]
    assert few["memory"]["rows_read"] == many["memory"]["rows_read"] == 0
    assert "segments" not in many["pin"]["bytes_written"] and "routers" not in many["pin"]["bytes_written"]
    assert many["tidy"]["bytes_written_a_domain"] > 0
    restart, removal = found["restart"], found["removal"]
    assert restart["until_the_router_stands"]["rows_read"] == 0
    assert restart["first_publication"]["rows_read"] < restart["rows_in_the_home"]
    assert removal["relative_difference_to_a_batch_solve_without_it"]["predictions"] < 1e-10
    json.dumps(found)


def test_settled_digests_are_found_again(tmp_path: Path) -> None:
    found = digests.measure(tmp_path, 20_000, 30)
    assert found["files"] == 1
    assert found["publication_of_more"]["bytes_written"] < 30 * 200
    assert found["disk_bytes_a_digest"] < 18
    json.dumps(found)
