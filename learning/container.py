"""Named arrays and one JSON document as safetensors bytes.

The document travels under a single metadata key, because the format keeps metadata in an unordered map: with one key
equal content gives equal bytes, so that a digest of the bytes identifies the content. Does not know what it carries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from learning.errors import LearningError


def pack(tensors: Mapping[str, NDArray[Any]], key: str, document: Mapping[str, Any]) -> bytes:
    """Serialises `tensors` and the JSON-able `document` under metadata key `key`."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save(contiguous, metadata={key: json.dumps(document, sort_keys=True)})


def unpack(content: bytes, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The inverse of `pack`. Raises `LearningError` when the bytes are no safetensors or lack the document."""
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        document = json.loads(header["__metadata__"][key])
    except (SafetensorError, ValueError, KeyError) as error:
        raise LearningError(
            f"reading {key!r} from {len(content)} bytes: expected safetensors with a {key!r} document, "
            f"got {type(error).__name__}: {error}; the bytes are damaged or of another kind"
        ) from error
    return tensors, document
