"""The ledger's books of what could not be read: every stretch is in them, once, and nothing that was read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.ledger import Ledger
from registry.digests import DigestRuns
from registry.registry import Registry
from streaming.source import TopicPartition

P0 = TopicPartition("stream", 0)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([(5, 10), (2, 10)], [(2, 9)]),
        ([(20, 30), (2, 5)], [(2, 4), (20, 29)]),
        ([(2, 5), (5, 8)], [(2, 7)]),
        ([(2, 5), (8, 9), (4, 8)], [(2, 8)]),
        ([(2, 9), (4, 6)], [(2, 8)]),
        ([(4, 4)], []),
    ],
)
def test_unread_stretches_add_up(tmp_path: Path, stretches: Sequence[tuple[int, int]], expected: object) -> None:
    ledger = Ledger(DigestRuns.empty(Registry(tmp_path, writer=True).segments))
    for first, end in stretches:
        ledger.skip(P0, first, end)
    assert sorted((loss.first, loss.last) for loss in ledger.unread) == expected
