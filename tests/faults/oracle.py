"""What the published router has to predict: one batch ridge over everything that was to be trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from actors.labels import domain_of
from cluster import builders
from configs.settings import Settings
from learning.heads import BACKGROUND
from learning.served_router import ServedRouter
from streaming.records import TaskRecord


def difference_from_batch(settings: Settings, records: Sequence[TaskRecord]) -> float:
    """How far the published scores on these training examples are from one solve over them and the general text, as a
    share of their norm; a domain's score is the sum of its segments' columns, which least squares makes linear."""
    registry = builders.registry(settings)
    manifest = registry.current()
    assert manifest is not None
    extractor, template = builders.extractor(settings), builders.template(settings)
    features = extractor.extract([template.render(record.messages_or_prompt()) for record in records])
    general = extractor.general()
    names = sorted({str(record.domain) for record in records})
    targets = np.array([[record.domain == name for name in names] for record in records], dtype=float)
    gram = features.T @ features + general.T @ general + settings.router.ridge * np.eye(features.shape[1])
    expected = features @ np.linalg.solve(gram, features.T @ targets)
    weights = ServedRouter.from_bytes(registry.weights(manifest)).weights
    scores = weights.scores(features)
    of = [domain_of(column) if column != BACKGROUND else "" for column in weights.domains]
    assert sorted({*of} - {""}) == names
    found = np.stack([scores[:, [each == name for each in of]].sum(axis=1) for name in names], axis=1)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
