"""The router: the single writer of the sums, the ledger and the published manifests.

Sums and ledger are one state, committed together as a snapshot: with a manifest when something is published, without
one when a domain is sealed for training. What a snapshot says was counted was counted exactly once, and rows counted
since are read again from the spools after a crash. What may fail is done to copies, which take the place of the state
once the commit has returned; where it can't be told whether it did, the state is read back from the registry.

This module knows no transport; its methods must be called by one thread at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors import ledger_state
from actors.change import (
    Change,
    adapter_of,
    check_up_to_date,
    made_together,
    next_delta,
    next_routes,
    next_states,
    next_withdrawn,
)
from actors.errors import ActorError, NoLongerSealed, NotCaughtUp, OtherHome
from actors.ledger import Ledger, Offsets
from actors.observation import (
    Background,
    Fate,
    Int64,
    LedgerView,
    Loss,
    Observation,
    OpenDomain,
    Receipt,
    RowKey,
    Seal,
    Watermarks,
    WriterRun,
)
from actors.ports import ManifestPort, SumsPort
from actors.prequential import Prequential
from actors.routed_share import Share
from actors.sums import RouterSums
from learning.errors import LearningError
from learning.router_options import RouterOptions
from registry.adapters import Adapter
from registry.digests import DigestRuns
from registry.manifest import BaseRevision, Manifest, Route, RouterRef, Tombstone
from registry.registry import Registry
from streaming.source import TopicPartition


class Router:
    """The central router over one registry, whose writer it is from now on: earlier ones can commit nothing more.

    Raises `OtherHome` where the registry's sums belong to another base model.
    """

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        options: RouterOptions,
    ) -> None:
        self._registry, self._base, self._options = registry, base, options
        self._epoch = registry.begin_epoch()
        self._sums = RouterSums(options, registry.segments)
        self._prequential = Prequential(registry)
        self._ledger = Ledger(DigestRuns.empty(registry.segments))
        self._is_sound = False
        """Whether the state in memory is what the registry holds and what was counted since."""
        self._restore()

    # -- counting -----------------------------------------------------------------------------------------------------

    def view(self, known: int = -1) -> LedgerView:
        """Say where the router stands, and what the snapshot in force says; fences only if it isn't `known`."""
        self._check()
        return LedgerView(
            lineage=self._registry.lineage,
            run=self._epoch.name,
            runs=self._runs,
            snapshot=self._snapshot,
            logs=dict(self._ledger.logs),
            observed=dict(self._ledger.observed),
            durable=dict(self._durable),
            low=dict(self._low),
            fences=None if known == self._snapshot else dict(self._fences),
            removed=self._removed,
            background=self._sums.background if self._options.background else None,
            taken=dict(self._ledger.taken),
        )

    def fates(self, rows: Sequence[RowKey]) -> tuple[Fate, ...]:
        """Say what becomes of each row, were it alone."""
        self._check()
        return self._ledger.fates(rows)

    def observe(self, observation: Observation) -> Receipt:
        """Apply an observation once; refuse it when a span does not start where the router stands, or a row of it is
        neither new nor lost.

        Raises `learning.errors.FingerprintMismatch` when the rows come from another feature map, `OtherHome` when the
        log is another one; the state is then as it was.
        """
        self._check()
        ledger = self._ledger
        ledger.check_logs(observation.logs)
        fates = ledger.fates(observation.rows)
        repeated = len({row.digest for row in observation.rows}) < len(observation.rows)
        moved = any(ledger.observed.get(p, 0) != start for p, (start, _) in observation.spans.items())
        if repeated or moved or any(fate not in ("new", "lost") for fate in fates):
            return Receipt(False, dict(ledger.observed))
        _check_counts(observation, fates)
        if observation.statistics is not None:
            self._prequential.take(observation.statistics)
        self._is_sound = False
        try:
            self._sums.take(observation, fates, ledger.ends(observation))
        except LearningError:
            # Refused before anything was added.
            self._is_sound = True
            raise
        ledger.apply(observation, fates)
        self._is_sound = True
        return Receipt(True, dict(ledger.observed))

    def take_background(self, background: Background) -> None:
        """Sum what belongs to no domain; repeatable, so it is durable with the next commit only.

        Raises `learning.errors.FingerprintMismatch` for features of another make.
        """
        self._check()
        if self._options.background:
            sums = self._sums.copy()
            sums.take_background(background)
            self._sums = sums

    def prequential(self) -> dict[str, Share]:
        """Return, of each domain in service, the share of its recent rows that the router in force would have routed
        right before it learned them, and the number of rows since this router began."""
        return self._prequential.shares()

    def trouble(self) -> str | None:
        """Say why prequential accuracy stands still, None where it does not."""
        return self._prequential.trouble()

    # -- what the coordinator asks ------------------------------------------------------------------------------------

    def observed(self) -> Watermarks:
        """Return the next offset to be counted of each partition; one that is absent stands at 0."""
        self._check()
        return dict(self._ledger.observed)

    def open(self) -> dict[str, OpenDomain]:
        """Describe what is not settled of each domain."""
        self._check()
        return self._ledger.open()

    def unread(self) -> tuple[Loss, ...]:
        """Return the stretches of the stream that could not be read before they were gone."""
        self._check()
        return tuple(self._ledger.unread)

    def examples(self) -> dict[str, int]:
        """Return the number of distinct examples known of each domain, held-out ones included."""
        self._check()
        return self._ledger.examples()

    def versions(self, domain: str) -> frozenset[int]:
        """Return the numbers of the domain's versions whose examples are settled by them, along what is in force."""
        self._check()
        return self._ledger.versions(domain)

    def counts(self) -> dict[str, int]:
        """Return the number of rows in the sums of each domain."""
        self._check()
        return self._sums.counts()

    def segment_counts(self) -> dict[str, int]:
        """Return the number of rows that each segment of each domain has learned, by the name of its column."""
        self._check()
        return self._sums.segment_counts()

    def seal(self, domain: str, version: int, until: Watermarks) -> Seal:
        """Seal the domain's open rows below `until` for a version, durably; repeating it returns the same seal.

        Raises `NotCaughtUp` where the router has not counted up to `until`, `UnknownDomain` where there is nothing to
        train.
        """
        self._check()
        ledger = self._ledger.copy()
        seal = ledger.seal(domain, version, until)
        known = self._ledger.entries[domain].seal
        if known is None:
            sums = self._sums.copy()
            sums.seal(domain, seal, ledger)
            self._commit(ledger, sums)
        return seal

    def renumber(self, domain: str, version: int, other: int) -> Seal | None:
        """Seal for another version, durably, what is sealed for this one; None where nothing is. Repeatable."""
        self._check()
        ledger = self._ledger.copy()
        ledger.renumber(domain, version, other)
        if ledger.differs_from(self._ledger):
            self._commit(ledger, self._sums)
        seal = self._ledger.entries[domain].seal if domain in self._ledger.entries else None
        return seal if seal is not None and seal.version == other else None

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again. Repeatable, so it is durable with the next commit only."""
        self._check()
        self._ledger.reopen(domain, version)
        self._sums.follow(self._ledger)

    def drop_markers(self, domain: str, markers: Watermarks) -> None:
        """Drop the domain's markers at or below these offsets: it has nothing to train on before them."""
        self._check()
        self._ledger.drop_markers(domain, markers)
        self._sums.follow(self._ledger)

    def open_offsets(self) -> dict[TopicPartition, Int64]:
        """Return the offsets of all rows that are counted and not settled, in order, by partition."""
        self._check()
        return self._ledger.open_offsets()

    def lose(self, offsets: Mapping[TopicPartition, Collection[int]], unlearned: Collection[str]) -> None:
        """Note, durably, that the rows at these places can be read nowhere any more; see `Ledger.lose`."""
        self._check()
        ledger = self._ledger.copy()
        ledger.lose(offsets, unlearned)
        if ledger.differs_from(self._ledger):
            self._commit(ledger, self._sums)

    def skip(self, partition: TopicPartition, first: int, end: int) -> None:
        """Note, durably, that nobody can read offsets `first` up to `end`.

        What was counted of them meanwhile is durable then too: their readers take all of it for read.
        """
        self._check()
        ledger = self._ledger.copy()
        ledger.skip(partition, first, end)
        counted = min(end, ledger.observed.get(partition, 0))
        if ledger.differs_from(self._ledger) or self._durable.get(partition, 0) < counted:
            self._commit(ledger, self._sums)

    def give_up(self, domain: str, until: Watermarks) -> None:
        """Give up, durably, the domain's rows below `until` that no version is made of; see `Ledger.give_up`."""
        self._check()
        ledger = self._ledger.copy()
        ledger.give_up(domain, until)
        if ledger.differs_from(self._ledger):
            self._commit(ledger, self._sums)

    def tidy(self) -> None:
        """Join small files into larger ones: the same state, named by the next snapshot. Takes its time.

        What fails of it leaves state and next snapshot as if it had not been tried.
        """
        self._check()
        ledger = self._ledger.copy()
        ledger.tidy()
        self._sums.tidy()  # Whole or not at all, and the last that may fail.
        self._ledger = ledger

    # -- publishing ---------------------------------------------------------------------------------------------------

    def is_outdated(self) -> bool:
        """Tell whether the weights in force were made with other options, or general texts, than the next would be:
        any change, an empty one too, is published with weights of its own then."""
        self._check()
        return self._is_outdated(self._registry.current(), self._sums)

    def publish(self, change: Change) -> Manifest:
        """Commit the change, and return the manifest that is in force then: the present one where nothing changes.

        A version's publication settles the rows sealed under it, also where a pin keeps it from service: the manifest
        names it as one that waits. Raises `NoLongerSealed` for a learned version that is neither sealed nor known to
        manifests, `UnknownDomain` for what is not there; nothing has changed then.
        """
        self._check()
        current = self._registry.current()
        ledger, sums = self._ledger.copy(), self._sums.copy()
        settled = self._settle(ledger, sums, change, current)
        beside = made_together(change, settled, current, self._registry)
        for domain in beside.keys() - change.puts.keys() if settled else ():
            # Of several segments the last: it serves beside the others, and nobody goes back to half of them.
            ledger.note(domain, self._registry.adapter(beside[domain][-1]).version)
        change = replace(change, puts={**{domain: names[-1] for domain, names in beside.items()}, **change.puts})
        routes = next_routes(current.routes if current else {}, change, self._registry, _removed(current))
        for domain in change.removes:
            ledger.remove(domain, change.fence)
            sums.remove(domain)
        counts = sums.counts()
        if unknown := sorted(set(routes) - set(counts)):
            raise NotCaughtUp(f"the router has no examples of {unknown}: feed them before their adapters are published")
        number = self._registry.next_number()
        withdrawn = next_withdrawn(current, change, routes)
        moves_rows = bool(settled or change.removes)
        stays = not moves_rows and not self._is_outdated(current, sums)
        if current is not None and stays and (routes, withdrawn) == (current.routes, current.withdrawn):
            return current
        weights, router = self._weights(current, sums, routes, moves_rows=moves_rows)
        manifest = Manifest(
            number=number,
            parent=current.number if current else None,
            parent_digest=self._registry.head().manifest_digest,
            created_at=datetime.now(UTC),
            base=self._base.model_copy(update={"delta": next_delta(current, change, routes, self._registry)}),
            routes=routes,
            router=router,
            examples=counts,
            removed=_tombstones(current, change, number),
            withdrawn=withdrawn,
            states=next_states(current, change, settled),
            reason=change.reason,
        )
        self._prequential.forget(change.removes)
        return self._commit(ledger, sums, manifest, weights) or manifest

    def _settle(self, ledger: Ledger, sums: RouterSums, change: Change, current: Manifest | None) -> list[Adapter]:
        """Settle what was sealed for the versions to be published; return those that anything was sealed for."""
        settled = []
        for domain, name in change.puts.items():
            adapter = adapter_of(domain, name, self._registry, _removed(current))
            entry = ledger.entries.get(domain)
            if entry is not None and entry.seal is not None and entry.seal.version == adapter.version:
                check_up_to_date(adapter, current, self._registry)
                ledger.settle(domain)
                sums.settle(domain, adapter.facts.segment)
                settled.append(adapter)
                continue
            routed = current.routes.get(domain) if current else None
            known = {routed.adapter if routed else None, current.withdrawn.get(domain) if current else None}
            if not change.override and adapter.name not in known:
                raise NoLongerSealed(f"{adapter.name} is not published: its examples are not sealed for it any more")
            if adapter.version not in ledger.versions(domain):
                raise NoLongerSealed(f"{adapter.name} is not published: its examples may be trained on again")
        return settled

    def _weights(
        self, current: Manifest | None, sums: RouterSums, routes: Mapping[str, Route], *, moves_rows: bool
    ) -> tuple[bytes | None, RouterRef | None]:
        """Return the weights to publish; those in force where only pins or versions change."""
        if current is not None and current.router is not None and not moves_rows:
            same = sums.columns(routes).keys() == sums.columns(current.routes).keys()
            if same and not self._is_outdated(current, sums):
                return None, current.router
        served = sums.served(routes)
        if served is None:
            return None, None
        abstention = served.abstention
        return served.to_bytes(), RouterRef(
            fingerprint=served.weights.fingerprint,
            threshold=abstention.threshold if isfinite(abstention.threshold) else None,
            calibrated_on=abstention.rows,
            **self._making(sums),
        )

    def _making(self, sums: RouterSums) -> dict[str, Any]:
        """Return what weights are made with now, beside the sums themselves, as a manifest names it."""
        # Settings have more than that to say.
        options = self._options.model_dump(include=set(RouterOptions.model_fields))
        return {**options, "background": sums.background}

    def _is_outdated(self, current: Manifest | None, sums: RouterSums) -> bool:
        """Tell whether the weights in force were made with something else; nothing is, while the background is awaited:
        they would be made twice."""
        if current is None or current.router is None or (self._options.background and not sums.background):
            return False
        making = self._making(sums)
        return current.router.model_dump(include=set(making)) != making

    # -- the registry -------------------------------------------------------------------------------------------------

    def _commit(
        self,
        ledger: Ledger,
        sums: RouterSums,
        manifest: Manifest | None = None,
        weights: bytes | None = None,
    ) -> Manifest | None:
        """Commit ledger and sums, and make them the state; returns the manifest as committed, if one was given."""
        store = self._registry.segments
        self._is_sound = False
        sums.follow(ledger)
        document = ledger_state.save(ledger, store)
        features = sums.save()
        runs = self._runs
        if not runs or runs[-1].name != self._epoch.name:
            runs = (*runs, WriterRun(self._epoch.name, self._snapshot + 1))
        state = {"ledger": document, "sums": features, "runs": [list(run) for run in runs]}
        names = ledger_state.segments(document) | sums.segments()
        head, committed = self._registry.commit(
            state, names, epoch=self._epoch, parent=self._digest, manifest=manifest, weights=weights
        )
        self._ledger, self._sums = ledger, sums
        self._stand_on(head.snapshot, head.snapshot_digest, runs)
        if committed is not None:
            self._removed = frozenset(committed.removed)
        self._is_sound = True
        return committed

    def _stand_on(self, snapshot: int, digest: str, runs: tuple[WriterRun, ...]) -> None:
        """Note what the snapshot in force says: spools follow that, never what was counted since."""
        self._snapshot, self._digest, self._runs = snapshot, digest, runs
        self._durable: Offsets = dict(self._ledger.observed)
        self._low = self._ledger.low()
        self._fences = self._ledger.fences()

    def _check(self) -> None:
        """Read the state back where the last call may have left it half changed."""
        if not self._is_sound:
            self._restore()

    def _restore(self) -> None:
        snapshot, head = self._registry.snapshot(), self._registry.head()
        store = self._registry.segments
        self._sums, self._ledger = RouterSums(self._options, store), Ledger(DigestRuns.empty(store))
        runs: tuple[WriterRun, ...] = ()
        if snapshot is not None:
            self._check_base()
            runs = tuple(WriterRun(name, first) for name, first in snapshot.state["runs"])
            self._ledger = ledger_state.restore(snapshot.state["ledger"], store)
            self._sums = RouterSums.restore(snapshot.state["sums"], store, self._options)
            # A person may have changed the ledger alone (`actors.home`).
            self._sums.follow(self._ledger)
        self._stand_on(snapshot.number if snapshot else 0, head.snapshot_digest, runs)
        self._removed = frozenset(_removed(self._registry.current()))
        self._is_sound = True

    def _check_base(self) -> None:
        current = self._registry.current()
        made_with = current.base if current else None
        if made_with and made_with.digest and self._base.digest and made_with.digest != self._base.digest:
            raise OtherHome(
                f"manifest {current.number if current else 0} was made with base {Path(made_with.model).name} "
                f"({made_with.digest[:8]}), this system runs with {Path(self._base.model).name} "
                f"({self._base.digest[:8]}); set base.model back or begin a new home folder"
            )


def _check_counts(observation: Observation, fates: Sequence[Fate]) -> None:
    """Rows that are said to be new must be what the statistics hold, or the sums would not be those of the ledger."""
    named: dict[str, int] = {}
    for row, fate in zip(observation.rows, fates, strict=True):
        if fate == "new" and not row.held_out:
            named[row.domain] = named.get(row.domain, 0) + 1
    summed = dict(observation.statistics.counts) if observation.statistics is not None else {}
    if named != summed:
        raise ActorError(f"an observation names {named} new rows to train on, its statistics hold {summed}")
    new = zip(observation.rows, fates, strict=True)
    held_out = tuple(row.digest for row, fate in new if fate == "new" and row.held_out)
    if observation.held_out is not None and observation.held_out.digests != held_out:
        raise ActorError(f"an observation names {len(held_out)} new held-out rows, it brings the features of others")


def _removed(current: Manifest | None) -> Mapping[str, Tombstone]:
    return current.removed if current else {}


def _tombstones(current: Manifest | None, change: Change, number: int) -> dict[str, Tombstone]:
    """Return the tombstones after a change, for each domain that was ever removed."""
    removed = dict(_removed(current))
    for domain, version in change.removes.items():
        before = removed[domain].version if domain in removed else 0
        removed[domain] = Tombstone(version=max(version, before), manifest=number)
    return removed


if TYPE_CHECKING:

    def _meets(actor: Router) -> tuple[SumsPort, ManifestPort]:
        return actor, actor
