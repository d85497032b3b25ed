"""The head: the one small file whose replacement is a commit; beside it which home this is and which run may commit.

The head names the snapshot and the manifest in force by number and digest. It is there from a home's first moment,
before the lineage is: a home with a lineage and no head has lost it, or is a copy that never ended. What this module
does not know: what a commit consists of.
"""

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from registry.atomic import Staging, exclusive, replace_file
from registry.errors import DamagedSnapshot, DigestMismatch, RegistryError
from registry.layout import Layout
from registry.records import sealed, unsealed
from registry.snapshots import Epoch


@dataclass(frozen=True)
class Head:
    """What is in force."""

    snapshot: int
    snapshot_digest: str
    manifest: int
    """0 before the first."""
    manifest_digest: str
    previous: str
    """Digest of the snapshot before the one in force, should that turn out damaged; empty for the first."""
    issued: int
    """Highest number ever given to a manifest; also those that a person went back behind stay given."""

    def to_bytes(self) -> bytes:
        return sealed(asdict(self), "head.json")


NOTHING = Head(snapshot=0, snapshot_digest="", manifest=0, manifest_digest="", previous="", issued=0)


def way_back(root: Path) -> str:
    """How to go on deliberately where what is in force can't be read."""
    return (
        f"restore the file from a backup, or put an earlier snapshot in force with: anabranch home back {root.parent}"
    )


class HeadFile:
    """head.json, lineage.json and epoch.json of one registry."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout, self._staging = layout, staging

    def create(self) -> str:
        """Return the home's lineage, given at its first opening; RegistryError where it was lost since."""
        if not self._layout.lineage.exists():
            with exclusive(self._layout.lock):
                self._begin()
        content = unsealed(self._layout.lineage.read_bytes(), self._layout.lineage, "restore the file from a backup")
        return str(content["name"])

    def _begin(self) -> None:
        layout = self._layout
        if layout.lineage.exists():
            return
        if layout.head.exists() and self.read() != NOTHING:
            raise RegistryError(
                f"{layout.lineage}: expected the name of the home, got no file; restore the file from a backup"
            )
        replace_file(self._staging, layout.head, NOTHING.to_bytes())
        replace_file(self._staging, layout.lineage, sealed({"name": secrets.token_hex(16)}, "lineage.json"))

    def read(self) -> Head:
        """The head; `NOTHING` before the first commit. DamagedSnapshot, with the way on, if it can't be read."""
        path = self._layout.head
        remedy = way_back(self._layout.root)
        try:
            return Head(**unsealed(path.read_bytes(), path, remedy))
        except FileNotFoundError as error:
            raise DamagedSnapshot(
                f"{path}: expected what is in force, got no file (lost, or a backup that never ended); {remedy}"
            ) from error
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk, or {remedy}") from error
        except (DigestMismatch, TypeError) as error:
            raise DamagedSnapshot(str(error)) from error

    def place(self, head: Head) -> None:
        """Put `head` in force, in one step and durably."""
        replace_file(self._staging, self._layout.head, head.to_bytes())

    def epoch(self) -> Epoch | None:
        """The newest run of the writer, or None if none has begun."""
        path = self._layout.epoch
        try:
            content = unsealed(path.read_bytes(), path, "remove the file and start the system anew")
        except FileNotFoundError:
            return None
        return Epoch(int(content["counter"]), str(content["name"]))

    def begin(self) -> Epoch:
        """The next run, durably: every earlier one is stale."""
        before = self.epoch()
        epoch = Epoch(before.counter + 1 if before else 1, secrets.token_hex(8))
        replace_file(self._staging, self._layout.epoch, sealed(epoch._asdict(), "epoch.json"))
        return epoch
