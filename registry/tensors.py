"""The outside of a safetensors file: its header and whether all of it is there.

Layout: eight bytes little-endian length, that many bytes of JSON, then the tensors without a gap. Reading the header
alone costs the same for a file of a kilobyte and of a gigabyte. What this module does not know: what tensors mean.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import DigestMismatch

TYPES: dict[str, str] = {
    "U8": "uint8",
    "I8": "int8",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F32": "float32",
    "F64": "float64",
}
"""What numpy calls the format's types; others are not read here."""
_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries of the file's arrays, and where their bytes begin;

    DigestMismatch if the file is not whole, FileNotFoundError if absent.
    """
    with path.open("rb") as file:
        prefix = file.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES or length > _LARGEST_HEADER:
            raise _damaged(str(path), "no header")
        header = _parse(file.read(length), length, str(path))
        size = file.seek(0, 2)
    _check(header, length, size, str(path))
    return header, _LENGTH_BYTES + length


def check_layout(content: bytes, where: str) -> dict[str, str]:
    """The text entries of a file's content; DigestMismatch, naming `where`, if it is not whole."""
    header, start = _header_of(content, where)
    return _check(header, start - _LENGTH_BYTES, len(content), where)


def decode(content: bytes, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file's content, as read-only views of it; DigestMismatch, naming `where`, if it is not whole."""
    header, start = _header_of(content, where)
    _check(header, start - _LENGTH_BYTES, len(content), where)
    try:
        return {name: _view(content, start, entry) for name, entry in header.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(where, f"an array that is not as its header says ({error})") from error


def _view(content: bytes, start: int, entry: dict[str, Any]) -> NDArray[Any]:
    dtype, (first, end) = np.dtype(TYPES[entry["dtype"]]), entry["data_offsets"]
    flat = np.frombuffer(content, dtype, (end - first) // dtype.itemsize, start + first if end > first else 0)
    return flat.reshape(entry["shape"])


def _header_of(content: bytes, where: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or length > _LARGEST_HEADER:
        raise _damaged(where, "no header")
    start = _LENGTH_BYTES + length
    return _parse(content[_LENGTH_BYTES:start], length, where), start


def _parse(text: bytes, length: int, where: str) -> dict[str, Any]:
    if len(text) < length:
        raise _damaged(where, "a header cut short")
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _damaged(where, f"a header that is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(where, "a header that is no mapping")
    return header


def _check(header: dict[str, Any], length: int, size: int, where: str) -> dict[str, str]:
    metadata = header.pop("__metadata__", {})
    try:
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(where, "a header without offsets") from error
    expected = _LENGTH_BYTES + length + end
    if size != expected:
        raise _damaged(where, f"{size} bytes instead of {expected}")
    return {str(key): str(value) for key, value in metadata.items()}


def _damaged(where: str, found: str) -> DigestMismatch:
    return DigestMismatch(f"{where}: expected a whole safetensors file, got {found}; restore the file")
