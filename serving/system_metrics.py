"""The system's state as Prometheus text: what a scrape tells beside the replica's figures. Knows only the status."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from serving.api import SystemStatus


def render_metrics(status: SystemStatus) -> str:
    """Turn a status into Prometheus text."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"anabranch_{name}", text, labels, registry=registry)

    gauge("published_manifest_number", "Manifest in force").set(status.manifest)
    examples = gauge("domain_examples", "Distinct examples known of a domain", ("domain",))
    rows = gauge("router_rows", "Rows in the router's sums", ("domain",))
    waiting = gauge("domain_waiting_examples", "Examples not trained on yet", ("domain",))
    lost = gauge("domain_lost_rows", "Examples counted that can be read nowhere any more", ("domain",))
    prequential = gauge(
        "prequential_accuracy", "Share of a domain's recent rows that were routed right before learning", ("domain",)
    )
    for domain in status.domains:
        if domain.prequential is not None:
            prequential.labels(domain.domain).set(domain.prequential)
        lost.labels(domain.domain).set(sum(stretch.rows for stretch in domain.lost))
        examples.labels(domain.domain).set(domain.examples)
        rows.labels(domain.domain).set(domain.router_rows)
        waiting.labels(domain.domain).set(domain.waiting.train + domain.waiting.held_out)
    gauge("spool_rows", "Examples spooled on disk").set(sum(worker.spooled for worker in status.ingest))
    gauge("spool_bytes", "Bytes of them").set(sum(worker.spooled_bytes for worker in status.ingest))
    for counter in ("polled", "dead_letters", "duplicates"):
        total = sum(getattr(worker, counter) for worker in status.ingest)
        gauge(f"ingest_{counter}_records", "Records since the ingest workers started").set(total)
    unread = gauge("stream_unread_offsets", "Offsets that were gone before they were read", ("partition",))
    for stretch in status.unread:
        unread.labels(stretch.partition).inc(stretch.last - stretch.first + 1)
    replicas = gauge("replica_manifest_number", "Manifest a replica serves", ("replica",))
    lag = gauge("replica_lag_seconds", "For how long a replica has stood behind the manifest in force", ("replica",))
    for name, replica in status.replicas.items():
        replicas.labels(name).set(replica.manifest)
        lag.labels(name).set(replica.lag_seconds)
    up = gauge("actor_up", "1 where an actor is up, 0 while it is lost or being started", ("actor",))
    progress = gauge("actor_progress_seconds", "Since something in an actor last worked", ("actor",))
    restarts = Counter("anabranch_actor_restarts", "How often an actor was started anew", ("actor",), registry=registry)
    for actor in status.actors:
        up.labels(actor.name).set(actor.state == "up")
        restarts.labels(actor.name).inc(actor.restarts)
        if actor.progress_seconds is not None:
            progress.labels(actor.name).set(actor.progress_seconds)
    trouble = gauge("trouble", "1 for each part that is failing now; the status says how", ("where",))
    for where, _ in status.troubles():
        trouble.labels(where).set(1)
    return generate_latest(registry).decode()
