"""A snapshot's root: the router's whole state as JSON, naming the segment files that it stands on.

State and places in the stream are one value, because a restart must find them from the same moment: sums without their
places would be counted twice. The root's name carries number and digest, so that it can be told whole by itself.
What this module does not know: what the state means, and who may write.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from registry.errors import DigestMismatch, NewerHome, RegistryError
from registry.records import canonical
from registry.storage import Place

_FORMAT = 2


class Epoch(NamedTuple):
    """One run of the writer: a random name, and a number that grows from run to run."""

    counter: int
    name: str


@dataclass(frozen=True)
class Snapshot:
    """State of the router as it was committed."""

    number: int
    parent: str
    """Digest of the snapshot before; empty for the first."""
    manifest: int
    """The manifest in force with it; 0 before the first."""
    manifest_digest: str
    epoch: Epoch
    """The run that committed it."""
    lineage: str
    state: dict[str, Any]
    segments: frozenset[str]
    """Names of all segment files that the state refers to."""

    def to_bytes(self) -> bytes:
        """Canonical text: equal snapshots give equal bytes."""
        content = {
            "format": _FORMAT,
            "number": self.number,
            "parent": self.parent,
            "manifest": self.manifest,
            "manifest_digest": self.manifest_digest,
            "epoch": list(self.epoch),
            "lineage": self.lineage,
            "state": self.state,
            "segments": sorted(self.segments),
        }
        return canonical(content, f"snapshot {self.number}")

    @classmethod
    def read(cls, path: Place, digest: str) -> "Snapshot":
        """The snapshot in the file; DigestMismatch unless its text has that sha256 and is a snapshot's, NewerHome where
        it is of a later format, RegistryError if it can't be read, FileNotFoundError if absent."""
        try:
            text = path.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk") from error
        found = hashlib.sha256(text).hexdigest()
        if found != digest:
            raise DigestMismatch(f"{path}: expected sha256 {digest}, got {found}")
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise NewerHome(
                    f"{path}: expected format {_FORMAT}, got {content['format']!r}; it is of a newer Anabranch: upgrade"
                )
            return cls(
                number=content["number"],
                parent=content["parent"],
                manifest=content["manifest"],
                manifest_digest=content["manifest_digest"],
                epoch=Epoch(*content["epoch"]),
                lineage=content["lineage"],
                state=content["state"],
                segments=frozenset(content["segments"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DigestMismatch(f"{path}: expected a snapshot, got a text without one ({error!r})") from error
