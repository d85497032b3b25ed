"""What of the stream can be read nowhere any more: open rows that no spool holds, and offsets that nobody has counted.

Level-triggered: ledger and spools are compared again and again, whatever has happened to either, so nothing is
remembered of how a row came to be missing. A row is lost when no worker holds it and the one that reads its partition
won't come to it again. It knows neither what is in the rows nor what follows for a domain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from actors.errors import in_words
from actors.observation import Int64, Watermarks
from actors.ports import ManifestPort
from actors.report import Survey
from actors.spools import Spools
from streaming.source import TopicPartition

_LOOK_EVERY_S = 5.0
_NONE: Int64 = np.array([], dtype=np.int64)


class Losses:
    """Compares what is open with what the workers have, every few seconds."""

    def __init__(self, spools: Spools, router: ManifestPort) -> None:
        self._spools, self._router = spools, router
        self._look_at = 0.0
        self._waiting: tuple[str, ...] = ()

    def look(self, observed: Watermarks, unlearned: Callable[[], Collection[str]]) -> tuple[str, ...]:
        """Have what is lost noted as such, and reading go on behind it; returns what is to be said of the rest.

        Nothing is given up while a worker doesn't answer, as it may hold it. `unlearned` names the domains
        whose sealed version is neither learned nor being learned.
        """
        if time.monotonic() >= self._look_at:
            self._waiting = tuple(self._compare(observed, unlearned))
            self._look_at = time.monotonic() + _LOOK_EVERY_S
        return self._waiting

    def _compare(self, observed: Watermarks, unlearned: Callable[[], Collection[str]]) -> list[str]:
        opened, partitions = self._router.open_offsets(), self._spools.partitions()
        stretches = {
            partition: _stretch(opened.get(partition, _NONE), observed.get(partition, 0))
            for partition in sorted({*partitions, *opened})
        }
        surveys, silent = self._spools.survey(stretches)
        topics = {partition.topic for partition in partitions}
        lost: dict[TopicPartition, Int64] = {}
        waiting: list[str] = []
        for partition in stretches:
            stock = _Stock(partition, {name: each[partition] for name, each in surveys.items()})
            gone = stock.gone(opened.get(partition, _NONE), is_read=not topics or partition.topic in topics)
            if gone.size and silent:
                waiting += [f"{_words(partition, gone[0], gone[-1])} can't be read again; {why}" for why in silent]
            elif gone.size:
                lost[partition] = gone
            waiting += self._go_on(stock, observed.get(partition, 0), silent)
        if lost:
            waiting += _said("what is lost can't be noted", lambda: self._router.lose(lost, unlearned()))
        return waiting

    def _go_on(self, stock: _Stock, at: int, silent: Collection[str]) -> list[str]:
        """Have what stands at `at`, and can be counted by nobody, noted as never read, and its readers go on."""
        end = stock.first_countable(at)
        if end == at:
            return []
        partition, where = stock.partition, f"{_words(stock.partition, at, end - 1)} can't be read any more"
        if stock.counters(at):
            return [f"{where}; {' and '.join(stock.counters(at))} has read them and they are being counted"]
        if silent:
            return [f"{where}; {why}" for why in silent]

        def give_up() -> None:
            self._router.skip(partition, at, end)
            for name in stock.readers:
                self._spools.worker(name).give_up(partition, at, end)

        return _said(f"{where}, nor be given up", give_up)


@dataclass(frozen=True)
class _Stock:
    """What all workers that answered have of one partition."""

    partition: TopicPartition
    surveys: Mapping[str, Survey]

    @property
    def readers(self) -> dict[str, Survey]:
        """Those that read the partition; two for a moment, when it changes hands."""
        return {name: survey for name, survey in self.surveys.items() if survey.begins is not None}

    def gone(self, opened: Int64, *, is_read: bool) -> Int64:
        """Return the offsets that nobody holds nor is going to read; of a topic that is not read, all nobody holds.

        While nobody knows where the partition's log begins, none.
        """
        held = np.concatenate([_NONE, *(survey.held for survey in self.surveys.values())])
        missing = np.setdiff1d(opened, held)
        for survey in self.readers.values():
            missing = missing[survey.has_passed(missing)]
        return missing if self.readers or not is_read else _NONE

    def first_countable(self, at: int) -> int:
        """Return the first offset from `at` on that somebody has read or its readers can read: `at` itself, mostly."""
        readers = self.readers.values()
        if not readers or any(reader.has_read(at) or at >= (reader.begins or 0) for reader in readers):
            return at
        read = [span.first for survey in self.surveys.values() for span in survey.read if span.first > at]
        return min([*(reader.begins or 0 for reader in readers), *read])

    def counters(self, at: int) -> list[str]:
        """Return who has read the offset and will have it counted."""
        return [name for name, survey in self.surveys.items() if survey.has_read(at)]


def _stretch(opened: Int64, observed: int) -> tuple[int, int]:
    if not opened.size:
        return observed, observed
    return min(int(opened[0]), observed), int(opened[-1]) + 1


def _words(partition: TopicPartition, first: int, last: int) -> str:
    return f"{partition} offsets {first} to {last}"


def _said(what: str, act: Callable[[], object]) -> list[str]:
    try:
        act()
    except Exception as error:
        return [f"{what}: {in_words(error)}"]
    return []
