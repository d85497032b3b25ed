"""A training on its way as bytes, so that another process, on another machine, goes on with it to the same result.

    sha256 of the rest | safetensors: tensors by name; among its metadata, as JSON, facts and whose training it is

A checkpoint says which training it is of. One of another, or a damaged one, is left alone: the training begins anew and
says why. Nothing is unpickled. Does not know where checkpoints are kept, nor what is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from learning.checkpoint import base_digest, files_digest
from learning.contract import Checkpoints, TrainingJob
from learning.errors import LearningError
from learning.material import JobMaterial
from learning.methods import OPTIONS
from learning.training_options import TrainingOptions

_FORMAT = "1"
_REST = 9.0
"""Times as long as it took to write one, until the next: no more than a tenth of the time goes into them."""
_ANEW = "the training began anew"
_DIGEST_BYTES = 32
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Midway:
    """Where a training stands after a step: what the rest of it depends on and does not follow from its job."""

    facts: Mapping[str, Any]
    """What JSON holds."""
    tensors: Mapping[str, Tensor]


class Resumption:
    """The checkpoints of one training: `of` says which, `seconds` is how long it goes on without one.

    What goes wrong with them stops no training: it is said in `trouble`.
    """

    def __init__(self, place: Checkpoints, of: Mapping[str, str], seconds: float) -> None:
        self._place, self._of, self._seconds = place, {**of, "format": _FORMAT}, seconds
        self._due_at = monotonic() + seconds
        self._troubles: dict[str, None] = {}

    @property
    def trouble(self) -> str:
        """Why a checkpoint could not be gone on from, or none be kept; empty where all went well."""
        return "; ".join(self._troubles)

    def found(self) -> Midway | None:
        """Where an earlier process has left this training; None where none has, or that can't be used."""
        try:
            content = self._place.load()
            return None if content is None else _read(content, self._of)
        except (OSError, LearningError) as error:
            self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Notes why the training can't go on from what was found."""
        self._troubles[f"{error}: {_ANEW}"] = None

    def is_due(self) -> bool:
        """Whether it is time to keep the next one."""
        return monotonic() >= self._due_at

    def keep(self, midway: Midway) -> None:
        """Keeps this one in the place of the one before."""
        began = monotonic()
        try:
            self._place.save(_written(midway, self._of))
        except OSError as error:
            self._troubles[f"checkpoint not kept: {error}"] = None
        ended = monotonic()
        self._due_at = ended + max(self._seconds, _REST * (ended - began))


def resumption_of(
    job: TrainingJob,
    options: TrainingOptions,
    model_path: str,
    material: JobMaterial,
    start: Sequence[object] = (),
) -> Resumption | None:
    """The checkpoints of a job; None where it is to have none. `start` says what the method has chosen to begin with:
    folders stand for the files in them."""
    if job.checkpoints is None or not options.checkpoint_seconds:
        return None
    # What a learner's place adds to its method's options does not change what comes out.
    fields = OPTIONS[options.kind].model_fields.keys() - {"checkpoint_seconds"}
    encoded = [[each.ids, each.prompt_tokens] for each in (*material.train, *material.watched)]
    begins = [_content(each) for each in (job.state, job.base_delta, *start)]
    of = {
        "domain": job.domain,
        "version": str(job.version),
        "seed": str(job.seed),
        "options": _digest(options.model_dump(mode="json", include=fields)),
        "examples": _digest([len(material.train), encoded]),
        "base": base_digest(model_path),
        "start": _digest(begins),
        "torch": torch.__version__,
    }
    return Resumption(job.checkpoints, of, options.checkpoint_seconds)


def _content(what: object) -> object:
    if not isinstance(what, Path):
        return what
    return files_digest(sorted(path for path in what.iterdir() if path.suffix in (".json", ".safetensors")))


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _written(midway: Midway, of: Mapping[str, str]) -> bytes:
    tensors = {name: each.detach().cpu().contiguous() for name, each in midway.tensors.items()}
    body = save(tensors, {"of": json.dumps(of), "facts": json.dumps(midway.facts)})
    return hashlib.sha256(body).digest() + body


def _read(content: bytes, of: Mapping[str, str]) -> Midway:
    """Raises `LearningError` where it is damaged, or of another training."""
    body = content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != content[:_DIGEST_BYTES]:
        raise LearningError(f"checkpoint of {len(content)} bytes: expected a whole one, got a damaged one")
    try:
        end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
        metadata = json.loads(body[_LENGTH_BYTES:end])["__metadata__"]
        found, facts, tensors = json.loads(metadata["of"]), json.loads(metadata["facts"]), load(body)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise LearningError(f"checkpoint: expected safetensors with facts, got none ({error})") from error
    if other := sorted(key for key in {*of, *found} if found.get(key) != of.get(key)):
        raise LearningError(f"checkpoint: expected one of this training, got one of other {', '.join(other)}")
    return Midway(facts, tensors)
