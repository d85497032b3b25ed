"""The actors that compute: ingest and learners; each made from the settings alone, its models loaded behind."""

from __future__ import annotations

from actors.exam import ExamLimits
from actors.handover import Handover
from actors.ingest import Ingest
from actors.late import late
from actors.learner import LearnerWorker, learner_folder
from actors.spool import Spool
from actors.takeover import left_behind
from cluster import builders, names
from cluster.remote import Remote
from configs.settings import Settings


def ingest(settings: Settings, index: int) -> Ingest:
    """Ingest worker `index`, with its own spool file, running."""
    path = builders.spool_path(settings, index)
    made = Ingest(
        builders.source(settings, index),
        late(lambda: builders.dead_letters(settings)),
        late(lambda: Spool(path)),
        late(lambda: builders.extractor(settings), yields=True),
        late(lambda: builders.template(settings), yields=True),
        Remote.named(names.ROUTER),
        builders.ingest_options(settings),
        left_behind(path, settings.ingest.workers),
    )
    made.start()
    return made


def learner(settings: Settings, index: int) -> LearnerWorker:
    """Learner worker `index`."""
    return LearnerWorker(
        late(lambda: builders.learner(settings), yields=True),
        learner_folder(settings.home / "work", index, settings.learner.workers.most),
        [Remote.named(names.ingest(each)) for each in range(settings.ingest.workers)],
        ExamLimits(settings.gate.exam_rows, settings.gate.exam_bytes),
        builders.unfinished(settings),
        Handover(builders.storage(settings)),
    )
