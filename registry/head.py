"""The head: the one small file whose replacement is a commit; beside it which home this is and which run may commit.

The head names the snapshot and the manifest in force by number and digest, and the home that it belongs to. It is
there from a home's first moment, before the lineage is: a home with a lineage and no head has lost it, or is a copy
that never ended. What this module does not know: what a commit consists of.
"""

import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from registry.errors import DamagedSnapshot, DigestMismatch, NewerHome, OldHome, RegistryError
from registry.layout import Layout
from registry.records import sealed, unsealed
from registry.snapshots import Epoch, Snapshot
from registry.storage import Tag, again

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
    run: str = ""
    """In a bucket the run that began last: it gives the head another text, so that no earlier one's commit, already on
    its way, takes effect."""

    def followed_by(self, snapshot: Snapshot, digest: str) -> "Head":
        """The head that puts a snapshot in force after this one, which knows the numbers that are given."""
        return Head(
            snapshot=snapshot.number,
            snapshot_digest=digest,
            manifest=snapshot.manifest,
            manifest_digest=snapshot.manifest_digest,
            previous=snapshot.parent,
            issued=max(self.issued, snapshot.manifest),
            issued_snapshot=max(self.issued_snapshot, snapshot.number),
            run=self.run,
        )

    def to_bytes(self, lineage: str) -> bytes:
        """The text of head.json in the home of that lineage."""
        content = {name: value for name, value in asdict(self).items() if name != "run" or value}
        return sealed({"format": _FORMAT, "lineage": lineage, **content}, "head.json")


NOTHING = Head(snapshot=0, snapshot_digest="", manifest=0, manifest_digest="", previous="", issued=0, issued_snapshot=0)


def way_back(root: Path | str) -> str:
    """How to go on deliberately where what is in force can't be read."""
    home = root.parent if isinstance(root, Path) else "CONFIG"
    return f"restore the file from a backup, or put an earlier snapshot in force with: anabranch home back {home}"


class HeadFile:
    """head.json, lineage.json and epoch.json of one registry."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._storage = layout, layout.storage
        self._lineage = ""
        """Empty until it is known, and compared with nothing so long."""

    def create(self) -> str:
        """Return the home's lineage, given at its first opening; RegistryError where it was lost since.

        Raises OldHome or NewerHome where the head says that another version wrote the home.
        """
        path = self._layout.lineage
        try:
            try:
                text = path.read()
            except FileNotFoundError:
                with self._storage.exclusive():
                    again(self._begin)
                text = path.read()
            content = unsealed(text, path, "restore the file from a backup")
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
        if layout.lineage.is_there():
            return
        if not layout.head.is_there():
            if layout.has_content():
                raise self._nameless()
            self._storage.replace(layout.head.key, NOTHING.to_bytes(secrets.token_hex(16)), None)
        # Of many that begin at once, and after one that died here, all take the name that the head says.
        head, name, _ = self._parsed()
        if replace(head, run="") != NOTHING:
            raise self._nameless()
        self._storage.replace(layout.lineage.key, sealed({"name": name}, "lineage.json"), None)

    def _nameless(self) -> RegistryError:
        return RegistryError(
            f"{self._layout.lineage}: expected the name of the home, got no file; restore the file from a backup"
        )

    def read(self) -> Head:
        """The head; `NOTHING` before the first commit. DamagedSnapshot, with the way on, if it can't be read or is
        another home's; OldHome or NewerHome if another version wrote it."""
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[Head, Tag]:
        """The same, and what `place` wants to know it by."""
        head, lineage, tag = self._parsed()
        if self._lineage not in ("", lineage):
            raise DamagedSnapshot(
                f"{self._layout.head}: expected the head of home {self._lineage}, as {self._layout.lineage.name} says, "
                f"got that of home {lineage}; {way_back(self._layout.root)}"
            )
        return head, tag

    def tag(self) -> Tag | None:
        """What `place` wants to know the head by, damaged or not; None where there is none."""
        try:
            return self._storage.read_tagged(self._layout.head.key)[1]
        except FileNotFoundError:
            return None

    def _parsed(self) -> tuple[Head, str, Tag]:
        """The head, whatever home it says it is of, and that home's lineage."""
        path = self._layout.head
        remedy = way_back(self._layout.root)
        try:
            text, tag = self._storage.read_tagged(path.key)
            content = unsealed(text, path, remedy)
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
        return head, lineage, tag

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

    def place(self, head: Head, tag: Tag | None) -> None:
        """Put `head` in force, in one step and durably, in the place of the one of that tag; `Overtaken` where another
        one is there."""
        self._storage.replace(self._layout.head.key, head.to_bytes(self._lineage), tag)

    def epoch(self) -> Epoch | None:
        """The newest run of the writer, or None if none has begun; DigestMismatch if the file does not say one."""
        return self._epoch()[0]

    def _epoch(self) -> tuple[Epoch | None, Tag | None]:
        path, remedy = self._layout.epoch, "remove the file and start the system anew"
        try:
            text, tag = self._storage.read_tagged(path.key)
            content = unsealed(text, path, remedy)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise RegistryError(f"{path}: can't be read: {error}; mend the disk, or {remedy}") from error
        counter, name = content.get("counter"), content.get("name")
        if not isinstance(counter, int) or counter < 1 or not isinstance(name, str) or not name:
            raise DigestMismatch(f"{path}: expected a run's counter and name, got {counter!r} and {name!r}; {remedy}")
        return Epoch(counter, name), tag

    def begin(self) -> Epoch:
        """The next run, durably: every earlier one is stale, once the head has changed or been fenced."""

        def begin() -> Epoch:
            before, tag = self._epoch()
            epoch = Epoch(before.counter + 1 if before else 1, secrets.token_hex(8))
            self._storage.replace(self._layout.epoch.key, sealed(epoch._asdict(), "epoch.json"), tag)
            return epoch

        return again(begin)

    def fence(self, epoch: Epoch) -> None:
        """Keep out what earlier runs have on its way, where no lock does. A head that can't be read keeps out all."""

        def fence() -> None:
            try:
                head, tag = self.read_tagged()
            except DigestMismatch:
                return
            self.place(replace(head, run=epoch.name), tag)

        if self._storage.keeps_all:
            again(fence)
