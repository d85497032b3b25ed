"""A safetensors file that nobody vouches for: every entry of its header checked, its tensors read piece by piece.

Layout: eight bytes little-endian length, that many bytes of JSON, then the tensors one behind the other, without gap or
overlap. What the format's own reader passes over is refused here: of two entries of one name it takes the last. Needs
numpy alone; knows no model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from learning.errors import LearningError

_LENGTH_BYTES = 8
_PIECE_WEIGHTS = 1 << 20
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_OTHERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in its file."""

    dtype: str
    """As the format names it."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    bytes: int

    @property
    def is_float(self) -> bool:
        """Whether it holds floating-point numbers that can be read here."""
        return self.dtype in _WIDTHS


def read_entries(file: BinaryIO, most_header_bytes: int) -> dict[str, TensorPlace]:
    """The tensors of a file by name. Raises `LearningError`, which says what is wrong but not where the file is."""
    size = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(_LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or length > size - _LENGTH_BYTES:
        raise LearningError(f"expected a whole safetensors file, got {size} bytes, which end in its header")
    if length > most_header_bytes:
        raise LearningError(f"expected a header of at most {most_header_bytes} bytes, got one of {length}")
    header = strict_json(file.read(length), "its header")
    if not isinstance(header, dict):
        raise LearningError(f"expected a header that is a JSON object, got a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LearningError("expected texts in the header's __metadata__, got others")
    start = _LENGTH_BYTES + length
    entries = {name: _entry(name, found, start, size) for name, found in header.items()}
    end = start
    for name, entry in sorted(entries.items(), key=lambda each: (each[1].start, each[1].bytes)):
        if entry.start != end:
            raise LearningError(f"expected tensors one behind the other, got a gap or an overlap before {name!r:.80}")
        end += entry.bytes
    if end != size:
        raise LearningError(f"expected a file of {end} bytes by its header, got {size}: it was cut short or added to")
    return entries


def strict_json(content: bytes, what: str) -> Any:
    """JSON without repeated keys and without numbers that JSON has no words for. Raises `LearningError`."""
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_distinct, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise LearningError(f"expected {what} to be JSON, got {str(error) or type(error).__name__:.120}") from error


def matrix(file: BinaryIO, entry: TensorPlace) -> NDArray[np.float64]:
    """A tensor whole, in float64 and its own shape."""
    whole: NDArray[np.float64] = np.concatenate([*pieces(file, entry), np.empty(0)])
    return whole.reshape(entry.shape)


def norm(file: BinaryIO, entry: TensorPlace) -> float:
    """The Frobenius norm of a tensor, of which a piece at a time is in memory."""
    return math.sqrt(sum(float(np.dot(piece, piece)) for piece in pieces(file, entry)))


def pieces(file: BinaryIO, entry: TensorPlace) -> Iterator[NDArray[np.float64]]:
    """A tensor's values in order, some at a time."""
    file.seek(entry.start)
    left, width = entry.bytes, _WIDTHS[entry.dtype]
    while left:
        content = file.read(min(left, _PIECE_WEIGHTS * width))
        if not content:
            raise LearningError("expected the file to be as its header says, got its end: it was changed meanwhile")
        left -= len(content)
        yield _numbers(content, entry.dtype)


def _numbers(content: bytes, dtype: str) -> NDArray[np.float64]:
    if dtype == "BF16":
        # The upper half of a float32.
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(content, f"<f{_WIDTHS[dtype]}").astype(np.float64)


def _entry(name: str, found: Any, start: int, size: int) -> TensorPlace:
    wrong = LearningError(f"expected dtype, shape and data_offsets of {name!r:.80}, got {found!s:.80}")
    if not isinstance(found, dict) or found.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise wrong
    first, end = offsets
    if not first <= end <= size - start:
        raise LearningError(f"expected {name!r:.80} inside the file, got offsets {first} to {end}: it was cut short")
    if dtype not in _WIDTHS and dtype not in _OTHERS:
        raise LearningError(f"expected a known type of {name!r:.80}, got {dtype!r:.40}")
    if dtype in _WIDTHS and math.prod(shape) * _WIDTHS[dtype] != end - first:
        raise LearningError(f"expected {shape} values of {dtype} in {name!r:.80}, got {end - first} bytes")
    return TensorPlace(dtype, tuple(shape), start + first, end - first)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(each) is int and 0 <= each < 2**48 for each in values)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r:.80} twice")
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"the number {word}")
