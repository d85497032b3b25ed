"""This replica's own Prometheus metrics: anabranch_<thing>_<unit>[_total]. Knows no engine's metrics."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.abstained import TOKENS
from serving.mixtures import is_mixture
from serving.selection import Choice

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_SLOW = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class ReplicaMetrics:
    """A registry of its own, so that several services in one process don't collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "anabranch_requests", "Prompts answered", ["domain", "adapter", "model"], registry=self.registry
        )
        self.refusals = Counter(
            "anabranch_refusals", "Requests answered with an error", ["status"], registry=self.registry
        )
        self.abstentions = Counter(
            "anabranch_abstentions", "Prompts that no domain claimed", ["reason"], registry=self.registry
        )
        for token in TOKENS:
            self.abstentions.labels(token)
        self.route_seconds = Histogram(
            "anabranch_route_seconds", "Time to choose an adapter by content", buckets=_FAST, registry=self.registry
        )
        self.decisions = Counter(
            "anabranch_decisions",
            "Texts to be scored: known from before, or scored",
            ["how"],
            registry=self.registry,
        )
        for how in ("known", "scored"):
            self.decisions.labels(how)
        self.prepare_seconds = Histogram(
            "anabranch_prepare_seconds", "Time to prepare a manifest", buckets=_SLOW, registry=self.registry
        )
        self.prepare_failures = Counter(
            "anabranch_prepare_failures", "Manifests that could not be prepared", registry=self.registry
        )
        self.manifest_number = Gauge(
            "anabranch_manifest_number", "The manifest that new requests are served from", registry=self.registry
        )
        self.leases = Gauge("anabranch_leases", "Holds of requests in flight", registry=self.registry)
        self.published = Gauge("anabranch_published_adapters", "Versions that are served", registry=self.registry)
        self.loaded = Gauge("anabranch_loaded_adapters", "Versions loaded in the engine", registry=self.registry)
        self.moves = Counter(
            "anabranch_adapter_moves", "Versions by what was done with them", ["event"], registry=self.registry
        )
        self.waiting = Gauge("anabranch_waiting_requests", "Requests that wait for their turn", registry=self.registry)
        self.fenced = Gauge("anabranch_fenced", "1 while this replica refuses requests", registry=self.registry)

    def count(self, model: str, choices: Sequence[Choice]) -> None:
        """Count answered prompts; `model` is what the client asked for. A mixture counts for each of its parts."""
        # There is no end of mixtures.
        asked = "mixture" if is_mixture(model) else model
        for choice in choices:
            for domain, version in choice.answerers:
                self.requests.labels(domain, version, asked).inc()
            if choice.abstained is not None:
                self.abstentions.labels(choice.abstained.token).inc()

    def decided(self, known: int, scored: int) -> None:
        """Count texts whose decision was remembered, and others."""
        self.decisions.labels("known").inc(known)
        self.decisions.labels("scored").inc(scored)

    def text(self) -> bytes:
        return generate_latest(self.registry)
