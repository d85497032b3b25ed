"""The head: the one small file whose replacement is a commit; beside it which home this is and which run may commit.

The head names the snapshot and the manifest in force by number and digest, and the home that it belongs to. It is
there from a home's first moment, before the lineage is: a home with a lineage and no head has lost it, or is a copy
that never ended. What this module does not know: what a commit consists of.
"""

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from registry.atomic import Staging, exclusive, replace_file
from registry.errors import DamagedSnapshot, DigestMismatch, NewerHome, OldHome, RegistryError
from registry.layout import Layout
from registry.records import sealed, unsealed
from registry.snapshots import Epoch

_FORMAT = 3
"""Of a home as a whole: what its files are, and what seals them. A head that names none is of format 1."""


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
    issued_snapshot: int
    """The same of snapshots."""

    def to_bytes(self, lineage: str) -> bytes:
        """The text of head.json in the home of that lineage."""
        return sealed({"format": _FORMAT, "lineage": lineage, **asdict(self)}, "head.json")


NOTHING = Head(snapshot=0, snapshot_digest="", manifest=0, manifest_digest="", previous="", issued=0, issued_snapshot=0)


def way_back(root: Path) -> str:
    """How to go on deliberately where what is in force can't be read."""
    return (
        f"restore the file from a backup, or put an earlier snapshot in force with: anabranch home back {root.parent}"
    )


class HeadFile:
    """head.json, lineage.json and epoch.json of one registry."""

    def __init__(self, layout: Layout, staging: Staging) -> None:
        self._layout, self._staging = layout, staging
        self._lineage = ""
        """Empty until it is known, and compared with nothing so long."""

    def create(self) -> str:
        """Return the home's lineage, given at its first opening; RegistryError where it was lost since.

        Raises OldHome or NewerHome where the head says that another version wrote the home.
        """
        path = self._layout.lineage
        if not path.exists():
            with exclusive(self._layout.lock):
                self._begin()
        try:
            content = unsealed(path.read_bytes(), path, "restore the file from a backup")
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk or restore the file") from error
        self._lineage = str(content["name"])
        try:
            self.read()
        except (OldHome, NewerHome):
            raise
        except RegistryError:
            # Said to whoever asks what is in force; going back is possible all the same.
            pass
        return self._lineage

    def _begin(self) -> None:
        layout = self._layout
        if layout.lineage.exists():
            return
        if (self.read() != NOTHING) if layout.head.exists() else layout.has_content():
            raise RegistryError(
                f"{layout.lineage}: expected the name of the home, got no file; restore the file from a backup"
            )
        name = secrets.token_hex(16)
        replace_file(self._staging, layout.head, NOTHING.to_bytes(name))
        replace_file(self._staging, layout.lineage, sealed({"name": name}, "lineage.json"))

    def read(self) -> Head:
        """The head; `NOTHING` before the first commit. DamagedSnapshot, with the way on, if it can't be read or is
        another home's; OldHome or NewerHome if another version wrote it."""
        path = self._layout.head
        remedy = way_back(self._layout.root)
        try:
            content = unsealed(path.read_bytes(), path, remedy)
            self._check_format(content.pop("format", 1))
            lineage, head = content.pop("lineage"), Head(**content)
        except FileNotFoundError as error:
            raise DamagedSnapshot(
                f"{path}: expected what is in force, got no file (lost, or a backup that never ended); {remedy}"
            ) from error
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk, or {remedy}") from error
        except DigestMismatch as error:
            raise DamagedSnapshot(str(error)) from error
        except (KeyError, TypeError) as error:
            raise DamagedSnapshot(
                f"{path}: expected what is in force, got other entries ({error}); {remedy}"
            ) from error
        if self._lineage not in ("", lineage):
            raise DamagedSnapshot(
                f"{path}: expected the head of home {self._lineage}, as {self._layout.lineage.name} says, got that of "
                f"home {lineage}; {remedy}"
            )
        return head

    def _check_format(self, written: object) -> None:
        root = self._layout.root
        if written in (1, 2):
            raise OldHome(
                f"{root}: written by an Anabranch whose homes are of format {written}, this one reads {_FORMAT}: "
                "their sums do not tell what is learned from what is not, and their versions have no exam; keep its "
                "adapters, begin a new home and feed again"
            )
        if written != _FORMAT:
            raise NewerHome(
                f"{self._layout.head}: expected a home of format {_FORMAT}, got {written!r}; it is of a newer "
                "Anabranch: upgrade"
            )

    def place(self, head: Head) -> None:
        """Put `head` in force, in one step and durably."""
        replace_file(self._staging, self._layout.head, head.to_bytes(self._lineage))

    def epoch(self) -> Epoch | None:
        """The newest run of the writer, or None if none has begun; DigestMismatch if the file does not say one."""
        path, remedy = self._layout.epoch, "remove the file and start the system anew"
        try:
            content = unsealed(path.read_bytes(), path, remedy)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk, or {remedy}") from error
        counter, name = content.get("counter"), content.get("name")
        if not isinstance(counter, int) or counter < 1 or not isinstance(name, str) or not name:
            raise DigestMismatch(f"{path}: expected a run's counter and name, got {counter!r} and {name!r}; {remedy}")
        return Epoch(counter, name)

    def begin(self) -> Epoch:
        """The next run, durably: every earlier one is stale."""
        before = self.epoch()
        epoch = Epoch(before.counter + 1 if before else 1, secrets.token_hex(8))
        replace_file(self._staging, self._layout.epoch, sealed(epoch._asdict(), "epoch.json"))
        return epoch
