"""What a piece of work costs this process: seconds, bytes written below a folder, bytes read, memory at its peak.

Reads Linux's own figures in /proc/self. Does not know what the work is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

_SELF = Path("/proc/self")


@dataclass
class Footprint:
    """Filled in when the work is done; memory in bytes of resident set."""

    seconds: float = 0.0
    read: int = 0
    """Bytes taken in by reading calls, from the page cache or the disk; pages of mapped files are not among them."""
    resident: int = 0
    """Memory held before."""
    peak: int = 0
    written: dict[str, int] = field(default_factory=dict)
    """Bytes of the files that are new or replaced, by the folder below the watched one that they lie in."""

    @property
    def bytes_written(self) -> int:
        """All of them together."""
        return sum(self.written.values())

    @property
    def growth(self) -> float:
        """The peak over what was held before."""
        return self.peak / self.resident


@contextmanager
def footprint(folder: Path) -> Iterator[Footprint]:
    """Measure what is done inside; files that come and go within it are not seen."""
    found = Footprint(resident=resident())
    before = _files(folder)
    # Makes the process's peak begin anew at what it holds by now.
    (_SELF / "clear_refs").write_text("5")
    read, started = _bytes_read(), time.perf_counter()
    yield found
    found.seconds = time.perf_counter() - started
    found.peak, found.read = _memory("VmHWM"), _bytes_read() - read
    for path, state in _files(folder).items():
        if before.get(path) != state:
            place = path.relative_to(folder).parts
            name = place[0] if len(place) > 1 else path.name
            found.written[name] = found.written.get(name, 0) + state[1]


def resident() -> int:
    """Bytes of memory that this process holds."""
    return _memory("VmRSS")


def apart(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Do the work in a process of its own, so that nobody else's memory is in its figures."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _memory(entry: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def _bytes_read() -> int:
    lines = (_SELF / "io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def _files(folder: Path) -> dict[Path, tuple[int, int, int]]:
    states = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states}
