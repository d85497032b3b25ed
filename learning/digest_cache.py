"""Digests of large files, computed once a machine and kept in the user's cache folder.

An entry is found by what was computed and by path, inode, size and time of change of every file it was computed from: a
changed file is another entry. The cache is a convenience: where it can't be read or written, the digest is computed.
Does not know what is hashed, nor how.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_SETTLED_NS = 2_000_000_000
"""Age below which a file may change again within the resolution of its time stamp; it is not remembered yet."""


def remembered(what: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """The hexadecimal sha256 that `compute` gives for `what` about these files, from the cache where it is known.

    `what` names the computation completely: everything beside the files that its result depends on. Raises `OSError`
    where one of the files is not there.
    """
    stats = [(str(file.resolve()), file.stat()) for file in files]
    key = json.dumps([what, [[path, stat.st_ino, stat.st_size, stat.st_mtime_ns] for path, stat in stats]])
    entry = _folder() / hashlib.sha256(key.encode()).hexdigest()
    known = _read(entry)
    if known is not None:
        return known
    digest = compute()
    if all(time.time_ns() - stat.st_mtime_ns > _SETTLED_NS for _, stat in stats):
        _write(entry, digest)
    return digest


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anabranch" / "digests"


def _read(entry: Path) -> str | None:
    try:
        content = entry.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return content if re.fullmatch(r"[0-9a-f]{64}", content) else None


def _write(entry: Path, digest: str) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=entry.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as opened:
                opened.write(digest)
            os.replace(name, entry)
        except OSError:
            os.unlink(name)
            raise
    except OSError:
        return  # a read-only or full disk costs the next process the time to compute, nothing else
