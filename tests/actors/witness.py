"""What a router has counted and committed, by its answers alone: the books against which a course is judged.

A `Witness` stands before one router. It keeps the rows of every observation that was applied, and a copy of them with
each commit, by the digest of the snapshot; a router that starts again stands where its snapshot's copy stands. It knows
nothing of how the ledger holds any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.change import Change
from actors.observation import Observation, RowKey, example_digest
from learning.contract import Example
from registry.layout import Layout
from registry.manifest import Manifest
from registry.registry import Registry
from streaming.source import TopicPartition

Counted = dict[str, dict[bytes, RowKey]]
"""By domain and digest, the rows that were counted, each at the place where it was."""


@dataclass(frozen=True)
class Settled:
    """A version of a domain, and the examples that it was given."""

    domain: str
    adapter: str
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    segment: int
    before: Mapping[int, str]
    """By segment, the versions that it was trained to go on from or to stand beside."""

    @property
    def state(self) -> Mapping[int, str]:
        """By segment, the versions that the domain is served with once this one is in service."""
        return {**self.before, self.segment: self.adapter}

    @property
    def digests(self) -> frozenset[bytes]:
        """Of the examples that it has trained on."""
        return frozenset(example_digest(self.domain, example.id) for example in self.train)


@dataclass(frozen=True)
class Committed:
    """One commit: the one before it, what was counted by then, and what it changed."""

    parent: str
    counted: Counted
    change: Change | None
    settled: Settled | None
    """The version whose rows it settled."""
    ends: Mapping[TopicPartition, int]
    """Where the stream ended at that moment."""


@dataclass
class Books:
    """All commits by the digest of their snapshot, whichever router made them, in force or not."""

    commits: dict[str, Committed] = field(default_factory=dict)
    places: dict[RowKey, RowKey] = field(default_factory=dict)
    """By a counted row, the row that went into the sums for it: the same, unless that one was lost."""

    def line(self, digest: str) -> list[Committed]:
        """The commits that led to this one, oldest first."""
        found: list[Committed] = []
        while digest:
            found.append(self.commits[digest])
            digest = found[-1].parent
        return found[::-1]

    def counted(self, digest: str) -> Counted:
        if not digest:
            return {}
        return {domain: dict(rows) for domain, rows in self.commits[digest].counted.items()}


class Witness:
    """A router and the books it fills; other methods go to the router as they are."""

    def __init__(
        self,
        router: Any,
        registry: Registry,
        books: Books,
        ends: Callable[[], Mapping[TopicPartition, int]],
        behind: Callable[[Path], tuple[Any, tuple[Example, ...], tuple[Example, ...]]],
    ) -> None:
        self.router, self.books, self._ends, self._behind = router, books, ends, behind
        self._change: Change | None = None
        self._settled: Settled | None = None
        self._commit = registry.commit
        registry.commit = self._committing  # type: ignore[method-assign]
        self.counted = books.counted(router._digest)
        self.places = books.places

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.router, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._stand_where_it_stands()
            return found(*args, **kwargs)

        return call

    def observe(self, observation: Observation) -> Any:
        self._stand_where_it_stands()
        receipt = self.router.observe(observation)
        if receipt.applied:
            for row in observation.rows:
                known = self.counted.setdefault(row.domain, {})
                # An example that was lost is taken in at another place; in the sums it stays what it was.
                self.places[row] = self.places[known[row.digest]] if row.digest in known else row
                known[row.digest] = row
        return receipt

    def publish(self, change: Change) -> Manifest:
        self._stand_where_it_stands()
        self._change, self._settled = change, self._settles(change)
        try:
            manifest: Manifest = self.router.publish(change)
        finally:
            self._change = self._settled = None
        return manifest

    def _settles(self, change: Change) -> Settled | None:
        """A version settles what is sealed for it; put in service again, it settles nothing."""
        for domain, name in change.puts.items():
            found, adapter = self.router.open().get(domain), self.router._registry.adapter(name)
            if found is not None and found.seal is not None and adapter.version == found.seal.version:
                job, train, held_out = self._behind(adapter.path)
                before = {each.segment: each.adapter.name for each in job.incumbents}
                return Settled(domain, adapter.name, train, held_out, adapter.facts.segment, before)
        return None

    def _stand_where_it_stands(self) -> None:
        """A router whose last commit went wrong reads its state back from the registry at the next call."""
        if not self.router._is_sound:
            self.router._check()
            self.counted = self.books.counted(self.router._digest)

    def _committing(self, state: Any, segments: Any, **named: Any) -> Any:
        change, settled = self._change, self._settled
        gone = change.removes if change is not None else {}
        after = {domain: dict(rows) for domain, rows in self.counted.items() if domain not in gone}
        ends = dict(self._ends())
        try:
            head, manifest = self._commit(state, segments, **named)
        finally:
            self._look(Committed(named["parent"], after, change, settled, ends))
        self.counted = {domain: dict(rows) for domain, rows in after.items()}
        return head, manifest

    def _look(self, commit: Committed) -> None:
        """Note the commit if it has left its root, whether or not anybody heard of it.

        One that failed between its root and the head is not in force, but a person may put it there by going back.
        """
        for name in Layout(self.router._registry.storage).snapshot_names():
            self.books.commits.setdefault(name.digest, commit)
