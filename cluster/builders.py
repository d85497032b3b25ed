"""From settings to parts: the only place that translates the configuration's names into constructor arguments.

Every process of the system calls these with the same settings, so all of them see the same base, the same features and
the same stream. Nothing here knows Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.candidates import Method
from actors.closing import ClosingRule
from actors.coordinator import CoordinatorOptions
from actors.late import late
from actors.offers import peer_norms
from actors.spool_folder import make_spool_folder, private_folder
from actors.unfinished import Unfinished
from cluster.errors import ClusterError
from configs.settings import Settings
from learning.adapter_check import AdapterCheck
from learning.checkpoint import base_digest
from learning.contract import Learner
from registry.disk import Disk
from registry.errors import RegistryError
from registry.location import storage_at
from registry.manifest import BaseRevision, Manifest
from registry.offers import Offers
from registry.registry import Registry
from registry.storage import Storage
from serving.access import Access
from serving.options import EngineKnobs, EngineOptions
from serving.quotas import MeterPort
from streaming.dead_letters import DeadLetters
from streaming.kafka import KafkaOptions
from streaming.location import StreamLocation, open_dead_letters, open_sink, open_source
from streaming.source import RecordSink, RecordSource, StartAt

# Not every process computes: torch, transformers and PEFT take seconds to import, so the part that needs them does it.
if TYPE_CHECKING:
    from actors.ingest import IngestOptions
    from learning.features import FeatureExtractor
    from learning.pooled_layers import TokenPooling
    from learning.template import PromptTemplate
    from serving.hosted_layers import HostedLayers


def registry_root(home: Path) -> Path:
    """Return the folder of a home's registry, where its settings name no other."""
    return home / "registry"


def registry_storage(home: Path, url: str | None) -> Storage:
    """Return where a home's registry lies; RegistryError for a URL that names nothing of the kind."""
    if url is None:
        return Disk(registry_root(home))
    return storage_at(url, private_folder() / "registry")


def stream_file(home: Path) -> Path:
    """Return the file of a home's embedded stream."""
    return home / "stream.sqlite"


def storage(settings: Settings) -> Storage:
    """Return what all machines of a system share: where the registry lies."""
    return registry_storage(settings.home, settings.registry.url)


def registry(settings: Settings, *, writer: bool = False) -> Registry:
    """Return the registry."""
    return Registry(storage(settings), writer=writer)


def access(settings: Settings, replica: str, meter: MeterPort) -> Access:
    """Return the door of a replica."""
    serving = settings.serving
    return Access.over(storage(settings), serving.access, required=serving.keys_required, replica=replica, meter=meter)


def spool_path(settings: Settings, index: int) -> Path:
    """Return the file of an ingest worker's spool, on the machine it is asked on; its folder is there then."""
    folder = make_spool_folder(settings.home, registry(settings).lineage, settings.ingest.spool_folder)
    return folder / f"ingest-{index}.sqlite"


def unfinished(settings: Settings) -> Unfinished:
    """Return where learners keep trainings on their way: any of them finds what another one began."""
    return Unfinished(storage(settings), settings.learner.checkpoint_bytes)


def adapter_check(settings: Settings) -> AdapterCheck:
    """Return what adapters made elsewhere have to pass; of the base nothing is read before it is used."""
    return AdapterCheck(settings.base.model, settings.serving.max_lora_rank)


def upload_adapter(settings: Settings, folder: Path, domain: str) -> tuple[str, tuple[str, ...]]:
    """Check an adapter made elsewhere and copy it to where the registry lies; returns by what name it is known there,
    and what of its folder was passed over."""
    try:
        found = registry(settings)
        current = found.current()
        base = base_revision(settings).digest, current.base.delta if current else ""
        checked = adapter_check(settings).folder(folder, base, peer_norms(found, current))
        return Offers(found.storage).put(domain, checked.config, checked.weights), checked.notes
    except RegistryError as error:
        raise ClusterError(str(error)) from error


def template(settings: Settings) -> PromptTemplate:
    """Return the template by which prompts are rendered, in training and in serving."""
    from learning.template import PromptTemplate

    return PromptTemplate(
        settings.base.model, chat_template=settings.base.chat_template, terminator=settings.base.terminator
    )


def base_revision(settings: Settings) -> BaseRevision:
    """Return the base model as a manifest names it."""
    return BaseRevision(model=settings.base.model, revision="r0", digest=base_digest(settings.base.model))


def extractor(settings: Settings, layers: TokenPooling | None = None) -> FeatureExtractor:
    """Return the feature extractor; `layers` are its lower layers, where they lie elsewhere."""
    from learning.features import FeatureExtractor

    return FeatureExtractor(settings.base.model, settings.features, template(settings), layers=layers)


def hosted_layers(settings: Settings) -> HostedLayers | None:
    """Return the lower layers for the engine's worker to host; None where the replica has its own."""
    from learning.checkpoint import resolve
    from serving.hosted_layers import HostedLayers

    if not settings.serving.hosts_layers:
        return None
    return HostedLayers(resolve(settings.features.model or settings.base.model), settings.features)


def extractor_for(
    settings: Settings, layers: TokenPooling | None = None
) -> Callable[[Manifest | None], FeatureExtractor]:
    """Return the function by which a replica gets the extractor of a manifest.

    The lower layers are loaded and the calibration text is run from now on, beside whatever else starts, so that the
    first publication need not wait for either.
    """

    def calibrated() -> FeatureExtractor:
        loaded = extractor(settings, layers)
        loaded.extract(["calibrated"])
        return loaded

    made = late(calibrated)
    return lambda manifest: made


def learner(settings: Settings) -> Learner:
    """Return the learning method."""
    from learning import methods

    return methods.learner(settings.base.model, template(settings), settings.learner)


def engine_options(settings: Settings) -> EngineOptions:
    """Return what the engine of a replica is started with."""
    knobs = settings.serving.model_dump(include=set(EngineKnobs.model_fields))
    return EngineOptions(**knobs, **settings.base.model_dump())


def ingest_options(settings: Settings) -> IngestOptions:
    """Return the limits of an ingest worker."""
    from actors.ingest import IngestOptions

    ingest = settings.ingest
    return IngestOptions(
        max_record_bytes=ingest.max_record_bytes,
        poll_records=ingest.poll_records,
        block_rows=ingest.block_rows,
        spool_limit=ingest.spool_limit,
        spool_bytes=ingest.spool_bytes,
        held_out_fraction=ingest.held_out_fraction,
        domain_share=ingest.domain_share,
    )


def coordinator_options(settings: Settings) -> CoordinatorOptions:
    """Return the rules by which domains close, are judged and are kept."""
    closing = settings.closing
    return CoordinatorOptions(
        closing=ClosingRule(closing.count, closing.quiet_seconds, closing.settle_seconds),
        gate=settings.gate,
        method=Method(settings.learner.kind, settings.learner.seed, settings.learner.one_lane),
        keep_snapshots=settings.registry.keep_snapshots,
        keep_manifests=settings.registry.keep_manifests,
        keep_versions=settings.registry.keep_versions,
        fewest_learners=settings.learner.workers.fewest,
        idle_seconds=settings.learner.idle_seconds,
    )


# -- the stream -------------------------------------------------------------------------------------------------------


def stream_location(settings: Settings) -> StreamLocation:
    """Return where the stream lives."""
    stream = settings.stream
    if stream.kind == "kafka":
        return StreamLocation("kafka", stream.topic, bootstrap=stream.bootstrap)
    return StreamLocation("embedded", stream.topic, path=stream_file(settings.home))


def kafka_options(settings: Settings) -> KafkaOptions | None:
    """Return how the broker is spoken to; secrets come from the environment, or from files that are named."""
    stream = settings.stream
    if stream.kind != "kafka":
        return None
    names = ("sasl_password_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password_file")
    files: dict[str, Any] = {name: str(path) for name in names if (path := getattr(stream, name)) is not None}
    return KafkaOptions(
        bootstrap=stream.bootstrap or "",
        security_protocol=stream.security_protocol,
        sasl_mechanism=stream.sasl_mechanism,
        sasl_username=os.environ.get("ANABRANCH_KAFKA_USERNAME"),
        sasl_password=os.environ.get("ANABRANCH_KAFKA_PASSWORD"),
        ssl_key_password=os.environ.get("ANABRANCH_KAFKA_KEY_PASSWORD"),
        **files,
        session_timeout_ms=stream.session_timeout_ms,
        max_poll_interval_ms=stream.max_poll_interval_ms,
        client_id=f"anabranch-{settings.name}",
        client=settings.ingest.client,
    )


def source(settings: Settings, index: int) -> Callable[[StartAt], RecordSource]:
    """Return what opens the source of ingest worker `index`."""

    def open_at(start_at: StartAt) -> RecordSource:
        return open_source(
            stream_location(settings),
            group=settings.stream.group,
            start_at=start_at,
            member=index,
            members=settings.ingest.workers,
            options=kafka_options(settings),
        )

    return open_at


def sink(settings: Settings, *, patience_s: float | None = None) -> RecordSink:
    """Return a sink of the stream; an append waits `patience_s` for it, or as long as an outage may last."""
    return open_sink(
        stream_location(settings),
        options=kafka_options(settings),
        patience_s=patience_s,
        max_value_bytes=settings.ingest.max_record_bytes,
    )


def dead_letters(settings: Settings) -> DeadLetters:
    """Return the stream's dead letters."""
    return open_dead_letters(stream_location(settings), options=kafka_options(settings))
