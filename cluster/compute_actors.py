"""The actors that compute, as Ray runs them: ingest and learners, which load models and import what that takes."""

from __future__ import annotations

from actors.ingest import Ingest
from actors.learner import LearnerWorker
from actors.spool import Spool
from cluster import builders, names
from cluster.remote import Remote
from configs.settings import Settings


class IngestActor(Ingest):
    """Ingest worker `index`, with its own spool file."""

    def __init__(self, settings: Settings, index: int) -> None:
        template = builders.template(settings)
        super().__init__(
            builders.source(settings, index),
            builders.dead_letters(settings),
            Spool(settings.home / "spool" / f"ingest-{index}.sqlite", template.digest),
            builders.bare_extractor(settings),
            template,
            Remote.named(names.ROUTER),
            builders.ingest_options(settings),
        )
        self.start()


class LearnerActor(LearnerWorker):
    """Learner worker `index`."""

    def __init__(self, settings: Settings, index: int) -> None:
        super().__init__(
            builders.learner(settings),
            settings.home / "work" / f"learner-{index}",
            [Remote.named(name) for name in map(names.ingest, range(settings.ingest.workers))],
        )
