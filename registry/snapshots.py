"""Router snapshots: the router's whole state, the stream's watermarks and the manifest, in one file.

One file, because a restart must find all three from the same moment: statistics without their watermarks would be
counted twice. The file's name carries its number; its appearance is the commit of the manifest inside. What this
module does not know: what the tensors mean, and who may write.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from registry import tensors as layout
from registry.errors import DigestMismatch, RegistryError
from registry.manifest import Manifest

_MANIFEST = "anabranch.manifest"
_DIGEST = "anabranch.digest"


@dataclass(frozen=True)
class Snapshot:
    """State of the router as it was published with `manifest`."""

    manifest: Manifest
    tensors: dict[str, np.ndarray[Any, Any]]
    metadata: dict[str, str]

    def to_bytes(self) -> bytes:
        """One safetensors file; the manifest and a digest over everything travel in its text entries."""
        reserved = [key for key in self.metadata if key.startswith("anabranch.")]
        if reserved:
            raise RegistryError(f"snapshot {self.manifest.number}: key {reserved[0]!r} is reserved; name it otherwise")
        digest = self.digest()
        text = self.metadata | {_MANIFEST: self.manifest.to_json(), _DIGEST: digest}
        return layout.encode(self.tensors, text)

    def digest(self) -> str:
        """sha256 over manifest, tensors and metadata."""
        return layout.digest_of(self.tensors, self.metadata | {_MANIFEST: self.manifest.to_json()})

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """The snapshot in the file; DigestMismatch unless every byte of it is as written."""
        tensors, metadata = layout.decode(path.read_bytes(), str(path))
        expected = metadata.pop(_DIGEST, "")
        # Of the text as it was written: an earlier version may have written the same manifest otherwise.
        found = layout.digest_of(tensors, metadata)
        if found != expected:
            raise DigestMismatch(
                f"{path}: expected sha256 {expected or '(none)'}, got {found}; the file was changed: restore it, "
                "or remove it to go back to the snapshot before"
            )
        manifest = Manifest.from_json(metadata.pop(_MANIFEST, ""), str(path))
        return cls(manifest, tensors, metadata)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Manifest and digest of the snapshot in the file, from its header alone.

    DigestMismatch if the file is not whole; RegistryError if it is whole but the manifest is of an unknown format.
    """
    metadata = layout.read_metadata(path)
    if _MANIFEST not in metadata or metadata.get(_DIGEST, "") == "":
        raise DigestMismatch(f"{path}: expected a snapshot, got a safetensors file without a manifest; remove it")
    return Manifest.from_json(metadata[_MANIFEST], str(path)), metadata[_DIGEST]
