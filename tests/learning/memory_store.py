"""A store of moments in memory: named by content, copied on the way in, never written to again."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save


class MemoryStore:
    """Meets `learning.generations.MomentsStore`; `reads` names what was asked for, `written` counts bytes."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, NDArray[Any]]] = {}
        self.reads: list[str] = []
        self.written = 0

    def put(self, tensors: Mapping[str, NDArray[Any]]) -> str:
        kept = {name: np.ascontiguousarray(tensor).copy() for name, tensor in tensors.items()}
        name = sha256(save(kept)).hexdigest()
        if name not in self.entries:
            self.written += sum(tensor.nbytes for tensor in kept.values())
            for tensor in kept.values():
                tensor.setflags(write=False)
            self.entries[name] = kept
        return name

    def get(self, name: str) -> dict[str, NDArray[Any]]:
        self.reads.append(name)
        return self.entries[name]
