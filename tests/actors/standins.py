"""Parts that cost nothing and hide nothing: features, a template and a learner for courses of events.

Features are a function of the text alone, the learner writes a folder that the registry takes and remembers which
examples each one stands for. They do not know who asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from learning.contract import Evaluation, Example, Progress, TrainingJob, TrainingResult
from learning.errors import LearningError

DIM = 12


class HashFeatures:
    """float64[n, 12] from the bytes of each text; whoever mistakes one text for another gets other sums."""

    fingerprint = "hash of the text"
    feature_dim = DIM

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        digests = b"".join(hashlib.blake2b(text.encode(), digest_size=4 * DIM).digest() for text in texts)
        return np.frombuffer(digests, dtype=np.uint32).reshape(len(texts), DIM) / 2.0**31 - 1.0


class PlainTemplate:
    """The last message as it is."""

    digest = "plain"
    tells_time = False

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return messages[-1]["content"]


class RecordingLearner:
    """Trains by writing down what it was given; `rejects` counts, by domain, the coming trainings that come out bad,
    `fails` those that the method refuses."""

    name = "recording"

    def __init__(self) -> None:
        self.given: dict[str, tuple[TrainingJob, tuple[Example, ...], tuple[Example, ...]]] = {}
        """By the sha256 of the weights written."""
        self.rejects: dict[str, int] = {}
        self.fails: dict[str, int] = {}

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        if self._counted(self.fails, job.domain):
            raise LearningError(f"training {job.domain}: no example fits")
        after = job.initial_adapter.name if job.initial_adapter else ""
        named = json.dumps([job.domain, job.version, [e.id for e in job.train], [e.id for e in job.held_out], after])
        values = np.frombuffer(hashlib.blake2b(named.encode(), digest_size=32).digest(), dtype=np.uint8)
        job.output.mkdir(parents=True, exist_ok=True)
        (job.output / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
        weights = safetensors.numpy.save({"layers.0.lora_A.weight": values.reshape(2, 16).astype(np.float32)})
        (job.output / "adapter_model.safetensors").write_bytes(weights)
        self.given[hashlib.sha256(weights).hexdigest()] = (job, tuple(job.train), tuple(job.held_out))
        loss = 3.0 if self._counted(self.rejects, job.domain) else 1.0
        return TrainingResult(
            folder=job.output,
            rank=2,
            steps=1,
            epochs=1.0,
            seconds=0.0,
            train_loss=loss,
            candidate=Evaluation(loss, 0.0, len(job.held_out)),
            base=Evaluation(2.0, 0.0, len(job.held_out)),
            incumbent=Evaluation(1.5, 0.0, len(job.held_out)) if job.initial_adapter else None,
        )

    def behind(self, folder: Path) -> tuple[TrainingJob, tuple[Example, ...], tuple[Example, ...]]:
        """What the adapter in this folder was trained on: its job, training and held-out examples."""
        return self.given[hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()]

    @staticmethod
    def _counted(left: dict[str, int], domain: str) -> bool:
        if left.get(domain, 0) > 0:
            left[domain] -= 1
            return True
        return False
