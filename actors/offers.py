"""Adapters made elsewhere, from the moment that someone offers one until it is a version or refused.

    uploaded --take--> waiting --the domain's examples are complete--> candidate --gate--> a version, accepted or not
                  \\-> refused, with the reason

What waits is durable and is the candidate of the domain's next version, in the place of a training; it goes when that
version is in service or rejected. So whoever dies in between finds it again, and it is judged once. Who uploaded it is
not trusted: it is checked here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from actors.commands import Commands
from actors.errors import ActorError, DomainTaken, OfferRefused, in_words
from actors.ports import ManifestPort
from actors.publisher import Publisher
from learning.adapter_check import AdapterCheck, norms_of
from learning.errors import CheckpointError, LearningError
from registry.adapters import CONFIG, WEIGHTS, Adapter, content_digest
from registry.errors import DigestMismatch, RegistryError, StoreAway
from registry.manifest import Manifest
from registry.offers import Offer, Offers
from registry.registry import Registry
from streaming.errors import RecordError
from streaming.records import from_mapping

LEARNER = "imported"
"""What the facts of such a version name as its learner."""
_MOST_PEERS = 16
_MOST_NOTE = 200
_log = logging.getLogger(__name__)


class OfferedAdapters:
    """The offers to the domains of a registry, checked by `check`; without one nothing is taken, and nothing waits."""

    def __init__(
        self,
        registry: Registry,
        router: ManifestPort,
        publisher: Publisher,
        commands: Commands,
        check: AdapterCheck | None,
    ) -> None:
        self._registry, self._router, self._publisher, self._commands = registry, router, publisher, commands
        self._check = check

    def take(self, domain: str, name: str, note: str = "") -> str:
        """Take an upload as the candidate of the domain's next version; returns in words what becomes of it.

        The same again changes nothing. Raises `OfferRefused` for what can't be served, after that was written down,
        `DomainTaken` where the domain takes none now, and `ActorError` where storage or base can't be read.
        """
        try:
            from_mapping({"kind": "end_of_domain", "domain": domain})
            offer = self._checked(domain, name, note)
            with self._publisher.numbering:
                return self._take(Offers(self._registry.storage), offer)
        except RecordError as error:
            raise OfferRefused(in_words(error)) from error
        except (CheckpointError, StoreAway, OSError) as error:
            raise ActorError(in_words(error)) from error

    def _checked(self, domain: str, name: str, note: str) -> Offer:
        """Read and check an upload."""
        if self._check is None:
            raise OfferRefused("this system takes no adapters made elsewhere")
        offers = Offers(self._registry.storage)
        try:
            config, weights = offers.read(domain, name, self._check.most_bytes)
        except StoreAway:
            raise
        except RegistryError as error:
            raise OfferRefused(in_words(error)) from error
        offer = Offer(
            domain=domain,
            name=name,
            digest=content_digest(config, weights),
            state="waiting",
            note=" ".join(note.split())[:_MOST_NOTE],
            created_at=datetime.now(UTC),
        )
        try:
            self._check.content(config, weights, peer_norms(self._registry, self._registry.current()), as_written=True)
        except CheckpointError:
            raise
        except LearningError as error:
            self._write_refusal(offers, offer, in_words(error))
            raise OfferRefused(in_words(error)) from error
        return offer

    def _take(self, offers: Offers, offer: Offer) -> str:
        """Decide under the lock that numbers are given under: no version of the domain begins meanwhile."""
        domain, current = offer.domain, self._registry.current()
        route = current.routes.get(domain) if current else None
        if route is not None and offer.digest in {placed.digest for placed in route.segments.values()}:
            return f"{route.adapter} is in service, with this adapter"
        if route is not None and route.pinned:
            raise DomainTaken(f"{domain} is pinned to {route.adapter}; unpin it, and add the adapter again")
        waiting = self._router.open().get(domain)
        known = self.waiting(domain)
        if known is not None and known.digest == offer.digest:
            offer = known
        elif waiting is not None and waiting.seal is not None:
            raise DomainTaken(f"{domain} v{waiting.seal.version} is being made; add the adapter again when it is done")
        else:
            offers.decide(offer.model_copy(update={"after": self._commands.next_version(domain) - 1}))
        rows = f"{waiting.train} examples and {waiting.held_out} held-out ones" if waiting else "no examples"
        return (
            f"{offer.name} is taken: it is judged, and its examples are learned by the router, when {domain} is "
            f"complete; {rows} wait so far"
        )

    def waiting(self, domain: str) -> Offer | None:
        """The offer that the domain's next version is to be made of; None where there is none."""
        if self._check is None:
            return None
        offers = Offers(self._registry.storage)
        try:
            offer = offers.get(domain)
        except DigestMismatch as error:
            _log.warning("%s", in_words(error))
            offers.forget(domain)
            return None
        if offer is None or offer.state != "waiting":
            return None
        if self._is_done(offer):
            # Whoever made a version of it died before it was forgotten.
            offers.forget(domain, offer.digest)
            return None
        return offer

    def folder(self, offer: Offer) -> Path | None:
        """Where its files lie on this machine, read here and now; None where they are not what was taken any more,
        which is written down: the domain is learned from its examples then."""
        offers = Offers(self._registry.storage)
        try:
            most = self._check.most_bytes if self._check else 0

            def verify() -> None:
                offers.read(offer.domain, offer.name, most)

            verify()
            return self._registry.storage.fetch(offers.place(offer.name).key, verify)
        except StoreAway:
            raise
        except RegistryError as error:
            self._write_refusal(offers, offer, in_words(error))
            return None

    def refuse(self, domain: str, reason: str) -> None:
        """Write down why the offer that waits can't become a version: the domain is learned from its examples."""
        offers = Offers(self._registry.storage)
        if (offer := self.waiting(domain)) is not None:
            self._write_refusal(offers, offer, reason)

    def done(self, adapter: Adapter) -> None:
        """Forget the offer that a version was made of: it is in service, or the gate has rejected it."""
        if adapter.facts.learner == LEARNER:
            Offers(self._registry.storage).forget(adapter.domain, adapter.digest)

    def forget(self, domain: str) -> bool:
        """Forget whatever was offered to a domain; returns whether anything was."""
        return self._check is not None and Offers(self._registry.storage).forget(domain)

    def _is_done(self, offer: Offer) -> bool:
        adapters, _ = self._registry.survey(offer.domain)
        made = [each for each in adapters if each.version > offer.after and each.digest == offer.digest]
        settled = self._router.versions(offer.domain) if made else frozenset()
        return any(each.facts.status == "rejected" or each.version in settled for each in made)

    def _write_refusal(self, offers: Offers, offer: Offer, reason: str) -> None:
        """What waits already is not given up for one that can't be served."""
        _log.warning("offer %s is refused: %s", offer.name, reason)
        known = self.waiting(offer.domain)
        if known is None or known.digest == offer.digest:
            offers.decide(offer.model_copy(update={"state": "refused", "reason": reason}))
        else:
            offers.drop(offer.name)


def peer_norms(registry: Registry, current: Manifest | None) -> list[Mapping[str, float]]:
    """The norms by module of adapters in service, of some where there are many; what can't be read says nothing."""
    routes = current.routes.values() if current else ()
    placed = (each.adapter for route in routes for each in route.segments.values() if each.rank > 0)
    found: list[Mapping[str, float]] = []
    for name in islice(placed, _MOST_PEERS):
        try:
            place = registry.adapter(name).place
            found.append(norms_of(*(place.storage.read_in(place.key, file) for file in (CONFIG, WEIGHTS))))
        except (LearningError, RegistryError, OSError) as error:
            _log.info("norms of %s: %s", name, in_words(error))
    return found
