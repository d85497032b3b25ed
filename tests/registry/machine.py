"""A machine that can die at any system call, losing what was never forced to its disk.

`Machine` watches the calls that change files below one folder. At the chosen call it dies: that call and all later
ones raise `Died`, so no clean-up runs. `lose_power` then takes back what no fsync has covered: names are undone in
reverse, unforced contents are cut in half. A process that is merely killed loses nothing: don't call `lose_power`.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_CALLS = ("mkdir", "open", "write", "fsync", "rename", "replace", "link", "unlink", "rmdir")


class Died(BaseException):
    """The machine is off; nothing may catch this and go on."""


@dataclass
class _Change:
    """A change of a folder's names that no fsync of the folder has covered yet."""

    folder: int
    undo: Callable[[], None]


class Machine:
    """Counts the calls below `root`, and dies before the one numbered `dies_at`, halfway through if it is a write.

    With `error` that call alone fails, with an OSError of this number, and the process goes on.
    """

    def __init__(self, root: Path, shadows: Path, dies_at: int | None = None, *, error: int | None = None) -> None:
        self.root = root
        self.calls = 0
        self._dies_at = dies_at
        self._dead = False
        self._error = error
        self.failed = False
        """Whether a call has failed."""
        self._shadows = shadows
        self._changes: list[_Change] = []
        self._unforced: set[int] = set()
        self._real: dict[str, Any] = {name: getattr(os, name) for name in _CALLS}

    def run(self, action: Callable[[], Any]) -> bool:
        """Whether `action` got to its end before the machine died."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CALLS:
                patch.setattr(os, name, getattr(self, f"_{name}"))
            try:
                action()
            except Died:
                return False
        return True

    def revive(self) -> None:
        """Only the process has died: what it left unforced is still unforced, and the next one starts."""
        self._dead, self._dies_at = False, None

    def lose_power(self) -> None:
        """Undo every change of a name, and spoil every content, that was not forced to the disk."""
        for path in self.root.rglob("*"):
            if path.is_file() and path.stat().st_ino in self._unforced:
                os.truncate(path, path.stat().st_size // 2)
        for change in reversed(self._changes):
            change.undo()

    def _step(self, *, halfway: Callable[[], Any] | None = None) -> None:
        if self._dead:
            raise Died
        self.calls += 1
        if self.calls == self._dies_at:
            if halfway:
                halfway()
            if self._error is not None:
                self.failed = True
                raise OSError(self._error, os.strerror(self._error))
            self._dead = True
            raise Died

    def _path_of(self, inode: int) -> Path | None:
        return next((path for path in (self.root, *self.root.rglob("*")) if path.stat().st_ino == inode), None)

    def _changed(self, name: Path, undo: Callable[[], None]) -> None:
        self._changes.append(_Change(name.parent.stat().st_ino, undo))

    def _created(self, name: Path) -> None:
        """Undone by removing the entry, wherever its folder is by then, if it still is the same thing.

        What has been renamed or linked to another folder lives on there by that folder's fsync.
        """
        folder, inode = name.parent.stat().st_ino, name.stat().st_ino

        def undo() -> None:
            parent = self._path_of(folder)
            entry = parent / name.name if parent else None
            if entry is None or not entry.exists() or entry.stat().st_ino != inode:
                return
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

        self._changed(name, undo)

    def _mkdir(self, path: Any, *rest: Any, **named: Any) -> None:
        self._step()
        self._real["mkdir"](path, *rest, **named)
        self._created(Path(path))

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if not flags & os.O_CREAT or self.root not in Path(os.fsdecode(path)).parents:
            return int(self._real["open"](path, flags, *rest, **named))
        is_new = not os.path.exists(path)
        self._step()
        descriptor = int(self._real["open"](path, flags, *rest, **named))
        if is_new:
            self._created(Path(os.fsdecode(path)))
        return descriptor

    def _write(self, descriptor: int, content: Any) -> int:
        half = bytes(content)[: len(content) // 2]
        self._unforced.add(os.fstat(descriptor).st_ino)
        self._step(halfway=lambda: self._real["write"](descriptor, half))
        return int(self._real["write"](descriptor, content))

    def _fsync(self, descriptor: int) -> None:
        self._step()
        self._real["fsync"](descriptor)
        inode = os.fstat(descriptor).st_ino
        self._unforced.discard(inode)
        self._changes = [change for change in self._changes if change.folder != inode]

    def _move(self, call: str, source: Any, target: Any) -> None:
        self._step()
        source, target = Path(source), Path(target)
        shadow = None
        if target.is_file():
            shadow = self._shadows / f"{self.calls}"
            self._real["link"](target, shadow)
        self._real[call](source, target)

        def undo() -> None:
            if target.exists():
                os.rename(target, source)
            if shadow is not None:
                os.rename(shadow, target)

        self._changed(target, undo)

    def _rename(self, source: Any, target: Any, **_: Any) -> None:
        self._move("rename", source, target)

    def _replace(self, source: Any, target: Any, **_: Any) -> None:
        self._move("replace", source, target)

    def _link(self, source: Any, target: Any, **_: Any) -> None:
        self._step()
        self._real["link"](source, target)
        self._created(Path(target))

    def _unlink(self, path: Any, **named: Any) -> None:
        self._step()
        self._real["unlink"](path, **named)

    def _rmdir(self, path: Any, **named: Any) -> None:
        self._step()
        self._real["rmdir"](path, **named)
