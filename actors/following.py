"""How a worker follows the router's ledger: what it was told last, and which rows of its spool are confirmed.

A row below where the router stands may have been counted from this spool, or have become anything else: after a start
of this worker or of the router, and where the stream is read again, the router is asked before such a row is used. It
knows neither the source nor features.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from actors.coverage import Span
from actors.errors import Unanswered
from actors.observation import LedgerView, Watermarks
from actors.ports import SumsPort
from actors.spool import Spool
from actors.takeover import take_over
from streaming.source import TopicPartition

_ASK_AGAIN_S = 2.0


class Following:
    """The ledger as this worker last heard of it; used by several threads.

    Who asks for the `view` may wait for the router; nothing else here does.
    """

    def __init__(self, spool: Spool, router: SumsPort, left_behind: Sequence[Path] = ()) -> None:
        self._spool, self._router, self._left_behind = spool, router, list(left_behind)
        self.trouble: str | None = None
        """What is to be said of spools that were not taken over."""
        self.last: LedgerView | None = None
        """What the router said last and the spool has followed, however long ago; None before the first time."""
        self._deleted: list[str] = []
        self._asking, self._lock = threading.Lock(), threading.RLock()
        self._view: LedgerView | None = None
        """The same, unless another router has answered since."""
        self._observed: Watermarks = {}
        self._noted = 0
        """How often `observed` was noted."""
        self._asked_at = 0.0
        self._wanted = self._asked_for = 0
        """How often somebody has asked for a fresh view, and how often when the last was asked for."""
        self._confirmed: dict[TopicPartition, int] = {}
        self._doubted: dict[TopicPartition, int] | None = {}
        """From where on rows were read again since `look`; None: any may have become another."""

    def view(self) -> LedgerView:
        """Return what the router says, of at most two seconds ago, after the spool has followed it.

        Raises `SpoolAhead` where it can't, and whatever asking raises.
        """
        with self._asking:
            is_old = self._asked_for != self._wanted or time.monotonic() - self._asked_at > _ASK_AGAIN_S
            if self._view is None or is_old:
                self._view = self._ask(self._view)
            return self._view

    def ask_again(self) -> None:
        """Let the next look be at a fresh view."""
        with self._lock:
            self._wanted += 1

    def renew(self) -> LedgerView:
        """Return what the router says now: whatever it answered before was by this snapshot or an earlier one."""
        self.ask_again()
        return self.view()

    @property
    def observed(self) -> Watermarks:
        """Where the router stood when it last answered."""
        return self._observed

    def note(self, observed: Watermarks) -> None:
        """Note where the router stands by its answer to an observation."""
        with self._lock:
            self._observed, self._noted = dict(observed), self._noted + 1

    def _ask(self, before: LedgerView | None) -> LedgerView:
        asked_at, wanted, noted = time.monotonic(), self._wanted, self._noted
        view = self._router.view(before.snapshot if before is not None else -1)
        if before is not None and view.run != before.run:
            # Another router: nothing that the last one said holds, nor do its fences.
            with self._lock:
                self._view, self._confirmed, self._doubted = None, {}, None
            noted = self._noted
            view = self._router.view()
        with self._lock:
            self._spool.follow(view)
            if self._left_behind:
                self._left_behind, self.trouble = take_over(self._spool, self._left_behind, view, self._deleted)
                self._confirmed, self._doubted = {}, None
            if noted == self._noted:
                # Else an observation was answered meanwhile, and it is not known which of the two answers is newer.
                self._observed = dict(view.observed)
            self.last, self._asked_at, self._asked_for = view, asked_at, wanted
        return view

    def check_taken_over(self) -> None:
        """Raise `Unanswered` while what a worker has left behind could not be taken over: it may hold any row."""
        if self._left_behind:
            raise Unanswered(self.trouble or f"spools are not taken over yet: {len(self._left_behind)}")

    # -- confirmations ------------------------------------------------------------------------------------------------

    def confirmed(self, partition: TopicPartition) -> int:
        """Return the offset below which every row in the spool is one that the router has counted."""
        return self._confirmed.get(partition, 0)

    def look(self) -> None:
        """Note that rows are looked at: what is confirmed next are those that are in the spool by now."""
        with self._lock:
            self._doubted = {}

    def confirm(self, partition: TopicPartition, first: int, end: int) -> None:
        """Note that rows from `first` up to `end` are confirmed, but for those that were read again since `look`; it
        counts where everything before is."""
        with self._lock:
            if self._doubted is None:
                return
            end = min(end, self._doubted.get(partition, end))
            if first <= self.confirmed(partition) < end:
                self._confirmed[partition] = end

    @contextmanager
    def reading(self, spans: Iterable[Span]) -> Iterator[None]:
        """Doubt what stands in these spans and behind them, while rows that were read are added to the spool."""
        with self._lock:
            for partition, first, _ in spans:
                self._confirmed[partition] = min(self.confirmed(partition), first)
                if self._doubted is not None:
                    self._doubted[partition] = min(self._doubted.get(partition, first), first)
            yield
