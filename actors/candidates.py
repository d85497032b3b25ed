"""From an order to what a training goes on from, and from its result to versions in the registry, with the verdict.

All that a training has made is taken in as one: the versions of other domains first and that of its own last, as from
that one on the training is done. What was taken in before by one that did not come so far is not published by anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from actors.change import delta_gone_on_from, gone_on_from
from actors.commands import Commands
from actors.errors import in_words
from actors.facts import figures_of
from actors.handover import Handover
from actors.labels import domain_of, segment_of
from actors.observation import Seal
from actors.offers import LEARNER as IMPORTED
from actors.offers import OfferedAdapters
from actors.ports import ManifestPort
from actors.publisher import Publisher
from actors.training import Segment, Trained, TrainingOrder
from learning.contract import NewAdapter, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate
from registry.adapters import Adapter, AdapterFacts, Parity
from registry.errors import RegistryError
from registry.manifest import BaseRevision, Manifest, Placed, Route
from registry.registry import Registry


@dataclass(frozen=True)
class Method:
    """The learning method as all trainings share it; `one_lane` as in `learning.contract.Learner`."""

    name: str
    seed: int
    one_lane: bool = False


class Candidates:
    """The trainings of one method over a registry; `base` is the model that it and the replicas were started with."""

    def __init__(
        self,
        registry: Registry,
        base: BaseRevision,
        router: ManifestPort,
        publisher: Publisher,
        commands: Commands,
        offers: OfferedAdapters,
        gate: Gate,
        method: Method,
    ) -> None:
        self._registry, self._base, self._router = registry, base, router
        self._publisher, self._commands, self._offers = publisher, commands, offers
        self._gate, self._method = gate, method

    def order(self, domain: str, seal: Seal) -> TrainingOrder:
        """Return the order for a sealed version: what it goes on from is what is in service or waits to be."""
        current = self._registry.current()
        segments, troubles = list(self._segments(domain, current)), []
        for other in sorted(gone_on_from(current).keys() - {domain}) if self._method.one_lane else ():
            try:
                segments += self._segments(other, current)
            except RegistryError as error:
                troubles.append(in_words(error))
        left_out = {*gone_on_from(current)} - {domain, *(each.domain for each in segments)}
        digest = current.states.get(self._method.name, "") if current is not None else ""
        state = None
        try:
            state = self._registry.states.fetch(digest) if digest else None
        except RegistryError as error:
            troubles.append(in_words(error))
        delta = delta_gone_on_from(current, self._registry)
        offer = self._offers.waiting(domain)
        offered = self._offers.folder(offer) if offer else None
        return TrainingOrder(
            domain,
            seal,
            tuple(segments),
            self._method.seed,
            manifest=(current.number if current else 0) if self._method.one_lane else None,
            state=state,
            base_delta=self._registry.bases.path(delta) if delta else None,
            trouble="; ".join(f"trained without: {trouble}" for trouble in troubles),
            left_out=tuple(sorted(left_out)) if self._method.one_lane else (),
            offered=offered,
            note=offer.note if offer and offered else "",
        )

    def take_in(self, order: TrainingOrder, trained: Trained) -> Adapter:
        """Judge what was trained, and keep it with the verdict: as the next version of the segment that it continues,
        or of one of its own."""
        handover = Handover(self._registry.storage)
        try:
            handover.present(trained.result.folders)
            with self._registry.states.held(), self._registry.bases.held():
                return self._take_in(order, trained)
        finally:
            handover.clear(trained.result)

    def _take_in(self, order: TrainingOrder, trained: Trained) -> Adapter:
        result = trained.result
        self._check_lane(order, result)
        new, verdict = result.adapters[0], self._gate.decide(result)
        goes_on = new.continues is not None and not verdict.segment_of_its_own
        names = {(each.domain, each.number): each.name for each in order.segments}
        facts = AdapterFacts(
            domain=order.domain,
            version=order.seal.version,
            status="accepted" if verdict.accepted else "rejected",
            reason="; ".join(filter(None, [verdict.reason, order.note, trained.trouble, order.trouble])),
            rank=new.rank,
            base_digest=self._base.digest,
            base_delta=self._delta(order, result) if verdict.accepted else "",
            learner=IMPORTED if order.offered else self._method.name,
            state=self._registry.states.put(result.state) if verdict.accepted and result.state else "",
            trained_on=order.manifest,
            train_examples=trained.train_examples,
            held_out_examples=new.candidate.examples,
            created_at=datetime.now(UTC),
        )
        more = result.adapters[1:] if verdict.accepted else ()
        together = [self._add_beside(each, names, facts, trained) for each in more]
        segment = new.continues if goes_on and new.continues else self._next_segment(order)
        own = facts.model_copy(update={"segment": segment, "together": tuple(together)})
        return self._add(new, names, own, trained.continued_exam if goes_on else trained.exam, result)

    def _check_lane(self, order: TrainingOrder, result: TrainingResult) -> None:
        """Refuse what domains that train in parallel may not give: another would undo it without having seen it."""
        beyond = {
            "further adapters": result.adapters[1:],
            "a state": result.state,
            "a changed base": result.base_delta,
        }
        if not self._method.one_lane and (more := [what for what, given in beyond.items() if given]):
            raise LearningError(
                f"{order.domain} v{order.seal.version}: expected one adapter, as method {self._method.name} is not of "
                f"one lane, got {', '.join(more)} as well"
            )
        if result.base_delta is not None and order.left_out:
            raise LearningError(
                f"{order.domain} v{order.seal.version}: it changes the base, and there is no adapter on it of "
                f"{', '.join(order.left_out)}: {order.trouble}"
            )

    def _delta(self, order: TrainingOrder, result: TrainingResult) -> str:
        """Keep the change of the base that a result was judged on, and return its digest: the one that the training
        began with where the result brings none."""
        if result.base_delta is not None:
            return self._registry.bases.put(result.base_delta)
        return order.base_delta.name if order.base_delta else ""

    def _add_beside(
        self, new: NewAdapter, names: dict[tuple[str, int], str], own: AdapterFacts, trained: Trained
    ) -> str:
        """Keep a further adapter as the next version of the segment that it continues; returns its name."""
        place = (new.domain, new.continues or 0)
        with self._publisher.numbering:
            facts = own.model_copy(
                update={
                    "domain": new.domain,
                    "version": self._commands.next_version(new.domain),
                    "reason": f"made with {own.domain} v{own.version}",
                    "rank": new.rank,
                    "segment": new.continues,
                    "state": "",
                    "trained_on": None,
                    "train_examples": 0,
                    "held_out_examples": new.candidate.examples,
                }
            )
            adapter = self._add(new, names, facts, trained.other_exams.get(place, b""), trained.result)
        return adapter.name

    def _add(
        self,
        new: NewAdapter,
        names: dict[tuple[str, int], str],
        facts: AdapterFacts,
        exam: bytes,
        result: TrainingResult,
    ) -> Adapter:
        """Keep an adapter beside its domain's other segments, as `names` has them, and note it there."""
        place = (facts.domain, facts.segment)
        complete = facts.model_copy(
            update={
                "beside": tuple(name for at, name in names.items() if at[0] == facts.domain and at != place),
                "exam_rows": len(exam.splitlines()),
                "figures": figures_of(new, result),
                "parity": tuple(Parity(**asdict(row)) for row in new.parity) if exam else (),
            }
        )
        adapter = self._registry.add_adapter(facts.domain, facts.version, new.folder, complete, exam)
        names[place] = adapter.name
        return adapter

    def _next_segment(self, order: TrainingOrder) -> int:
        """Return a number that no segment of the domain has, in service or not: its versions may have been pruned, and
        its rows stay in the sums."""
        settled = self._router.versions(order.domain)
        adapters, _ = self._registry.survey(order.domain)
        given = [adapter.facts.segment for adapter in adapters if adapter.version in settled]
        labels = [label for label in self._router.segment_counts() if domain_of(label) == order.domain]
        return max([0, *given, *map(segment_of, labels), *(each.number for each in order.of_domain())]) + 1

    def _segments(self, domain: str, current: Manifest | None) -> tuple[Segment, ...]:
        """Return the segments to go on from, as the domain's version there was made for them."""
        name = gone_on_from(current).get(domain)
        if current is None or name is None:
            return ()
        route = current.routes.get(domain)
        adapters = {number: self._registry.adapter(each.adapter) for number, each in self._state(name, route).items()}
        return tuple(
            Segment(domain, number, each.name, each.path, each.facts.exam_digest, each.facts.rank > 0)
            for number, each in adapters.items()
        )

    def _state(self, name: str, route: Route | None) -> Mapping[int, Placed]:
        """Return the segments that a version is or will be in service with."""
        return route.segments if route is not None and route.adapter == name else self._registry.route(name).segments
