"""Segment files: arrays that never change, in files named by the sha256 of their content.

`segments/<first two digits>/<sha256>.safetensors`. Equal content is one file, so putting it again writes nothing, and a
name says whether a file is whole. What this module does not know: what the arrays mean and who names them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import DigestMismatch, RegistryError, UnknownSegment
from registry.layout import Layout
from registry.storage import Listed, Place
from registry.tensors import TYPES, decode, read_header

_KINDS = {name: kind for kind, name in TYPES.items()}
_ALIGNMENT = 8


class SegmentStore:
    """The segments of a registry. Anyone may read; whoever puts one has it durable when `put` returns."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._storage = layout, layout.storage
        self.written = 0
        """Bytes that this store has written since it was made."""

    def put(self, tensors: Mapping[str, NDArray[Any]]) -> str:
        """Keep the arrays, durably, and return the name they have from now on. What is there, and whole, need not be
        written again."""
        parts = list(_parts(tensors))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        name = digest.hexdigest()
        if self._storage.keep(self._key(name), parts, name):
            self.written += sum(len(part) for part in parts)
        return name

    def get(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of that name, read-only; UnknownSegment if there are none, DigestMismatch unless as put.

        May be called by several threads at once.
        """
        return decode(self._read(name), str(self.place(name)))

    def verify(self, name: str) -> int:
        """Read the file whole and return its bytes; raises as `get` does."""
        return len(self._read(name))

    def map(self, name: str, key: str) -> NDArray[Any]:
        """One array as the file has it, mapped and not read: only its extent is checked. Raises as `get` does."""
        try:
            path = self.path(name)
            header, start = read_header(path)
            entry = header[key]
            first, end = entry["data_offsets"]
            dtype, shape = np.dtype(TYPES[entry["dtype"]]), tuple(entry["shape"])
            if end - first != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
                raise ValueError(f"{end - first} bytes for shape {shape}")
            if end == first:
                return np.empty(shape, dtype=dtype)
            mapped: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", offset=start + first, shape=shape)
            return mapped
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        except (KeyError, TypeError, ValueError) as error:
            raise DigestMismatch(
                f"{self.place(name)}: expected an array {key!r}, got {error}; restore the file"
            ) from error

    def size(self, name: str) -> int:
        """Bytes of the file; raises UnknownSegment."""
        try:
            return self._storage.size(self._key(name))
        except FileNotFoundError as error:
            raise self._unknown(name) from error

    def entries(self) -> dict[str, Listed]:
        """All that are there by name, whoever names them; what filesystems and people leave beside is passed over."""
        found = ((entry.name.partition(".")[0], entry) for entry in self._storage.entries("segments"))
        return {name: entry for name, entry in found if entry.key == self._key(name)}

    def names(self) -> Iterator[str]:
        """The names alone."""
        yield from self.entries()

    def place(self, name: str) -> Place:
        """What lies under that name."""
        return self._layout.place(self._key(name))

    def path(self, name: str) -> Path:
        """A file of this machine with what lies there, compared with its name where it had to be fetched; raises as
        `get` does."""
        try:
            return self._storage.local(self._key(name), name)
        except FileNotFoundError as error:
            raise self._unknown(name) from error

    def _key(self, name: str) -> str:
        return f"segments/{name[:2]}/{name}.safetensors"

    def _read(self, name: str) -> bytes:
        path = self.place(name)
        try:
            content = path.read()
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        except OSError as error:
            raise RegistryError(f"segment {name[:16]}: {path} can't be read: {error}; mend the disk") from error
        found = hashlib.sha256(content).hexdigest()
        if found != name:
            raise DigestMismatch(f"{path}: expected sha256 {name}, got {found}; restore the file from a backup")
        return content

    def _unknown(self, name: str) -> UnknownSegment:
        return UnknownSegment(f"segment {name[:16]}: not in {self._layout.place('segments')}; restore it from a backup")


def _parts(tensors: Mapping[str, NDArray[Any]]) -> Iterable[memoryview]:
    """A safetensors file piece by piece, so that a large array is not held twice; equal arrays give equal bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    header: dict[str, Any] = {}
    end = 0
    # The widest first, as the format has it, so that each lies aligned.
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in ordered:
        array = arrays[name]
        if array.dtype.name not in _KINDS:
            raise RegistryError(f"segment: array {name!r}: expected one of {sorted(_KINDS)}, got {array.dtype}")
        first, end = end, end + array.nbytes
        header[name] = {
            "dtype": _KINDS[array.dtype.name],
            "shape": list(tensors[name].shape),
            "data_offsets": [first, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        if arrays[name].nbytes:
            yield arrays[name].reshape(-1).view(np.uint8).data
