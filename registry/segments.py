"""Segment files: arrays that never change, in files named by the sha256 of their content.

`segments/<first two digits>/<sha256>.safetensors`. Equal content is one file, so putting it again writes nothing, and a
name says whether a file is whole. What this module does not know: what the arrays mean and who names them.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.atomic import Staging, discard, has_digest, sync_folder, write_parts
from registry.errors import DigestMismatch, RegistryError, UnknownSegment
from registry.layout import Layout
from registry.tensors import TYPES, decode, read_header

_KINDS = {name: kind for kind, name in TYPES.items()}
_ALIGNMENT = 8


class SegmentStore:
    """The folder of segments. Anyone may read; whoever puts one has it durable when `put` returns."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout, self._staging = layout, staging
        self.written = 0
        """Bytes that this store has written since it was made."""

    def put(self, tensors: Mapping[str, NDArray[Any]]) -> str:
        """Keep the arrays, durably, and return the name they have from now on. What is there, and whole, is not written
        again."""
        parts = list(_parts(tensors))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        name = digest.hexdigest()
        path = self.path(name)
        if not has_digest(path, name):
            path.parent.mkdir(exist_ok=True)
            staged = self._staging.place(name[:16])
            try:
                write_parts(staged, parts)
                os.replace(staged, path)
            except BaseException:
                discard(staged)
                raise
            self.written += sum(len(part) for part in parts)
        else:
            # As young as what will name it: a sweep leaves files alone that are younger than the last commit.
            os.utime(path)
        # Also of what is there: whoever wrote it may have died before the name was durable.
        sync_folder(path.parent)
        sync_folder(path.parent.parent)
        return name

    def get(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of that name, read-only; UnknownSegment if there are none, DigestMismatch unless as put.

        May be called by several threads at once.
        """
        return decode(self._read(name), str(self.path(name)))

    def verify(self, name: str) -> int:
        """Read the file whole and return its bytes; raises as `get` does."""
        return len(self._read(name))

    def map(self, name: str, key: str) -> NDArray[Any]:
        """One array as the file has it, mapped and not read: only its extent is checked. Raises as `get` does."""
        path = self.path(name)
        try:
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
            raise DigestMismatch(f"{path}: expected an array {key!r}, got {error}; restore the file") from error

    def size(self, name: str) -> int:
        """Bytes of the file; raises UnknownSegment."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError as error:
            raise self._unknown(name) from error

    def names(self) -> Iterator[str]:
        """All that are there, whoever names them; what filesystems and people leave beside them is passed over."""
        for folder in sorted(each for each in self._layout.segments.iterdir() if each.is_dir()):
            yield from sorted(path.stem for path in folder.iterdir() if path == self.path(path.stem))

    def path(self, name: str) -> Path:
        """Where the file of that name lies."""
        return self._layout.segments / name[:2] / f"{name}.safetensors"

    def _read(self, name: str) -> bytes:
        path = self.path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise self._unknown(name) from error
        except OSError as error:
            raise RegistryError(f"segment {name[:16]}: {path} can't be read: {error}; mend the disk") from error
        found = hashlib.sha256(content).hexdigest()
        if found != name:
            raise DigestMismatch(f"{path}: expected sha256 {name}, got {found}; restore the file from a backup")
        return content

    def _unknown(self, name: str) -> UnknownSegment:
        return UnknownSegment(f"segment {name[:16]}: not in {self._layout.segments}; restore it from a backup")


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
