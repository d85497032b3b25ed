"""One wheel, fetched by pip in a process of its own, with whatever index, proxy and cache the user has set up for it.

Does not know what is in a wheel, nor whether it is the right one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from learning.errors import CatalogueError

_LOOK_S = 0.2


def fetch(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """The wheel of `requirement` (`name==version`), fetched into `folder`; its dependencies are left alone.

    `on_bytes` hears how many bytes have come. Raises `CatalogueError` with pip's own words.
    """
    wheels = folder / "wheels"
    wheels.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(wheels), requirement]
    # What pip downloads grows in its temporary folder: here, it can be watched and lies on the disk that has the room.
    partial = folder / "partial"
    partial.mkdir()
    environment = {**os.environ, "TMPDIR": str(partial)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as pip:
        try:
            said = _watched(pip, folder, on_bytes)
        except BaseException:
            pip.kill()
            raise
    found = sorted(wheels.glob("*.whl"))
    if pip.returncode != 0 or len(found) != 1:
        raise CatalogueError(_refusal(requirement, said))
    return found[0]


def _watched(pip: subprocess.Popen[str], folder: Path, on_bytes: Callable[[int], None]) -> str:
    """What pip has said on its error channel when it ends."""
    while True:
        try:
            return pip.communicate(timeout=_LOOK_S)[1]
        except subprocess.TimeoutExpired:
            on_bytes(_largest(folder))


def _largest(folder: Path) -> int:
    """Bytes of the largest file; pip moves and deletes files and folders while they are looked at."""
    sizes = [0]
    for root, _, names in os.walk(folder):  # What is gone when it comes to it is passed over.
        for name in names:
            with suppress(OSError):
                sizes.append(Path(root, name).stat().st_size)
    return max(sizes)


def _refusal(requirement: str, said: str) -> str:
    if "No module named pip" in said:
        return (
            f"fetching {requirement}: this Python has no pip; add it with `python -m ensurepip`, or fetch the wheel "
            "elsewhere and give it with --from FILE"
        )
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
    words = " ".join(line.removeprefix("ERROR:").strip() for line in lines) or "pip said nothing"
    return (
        f"fetching {requirement}: {words}; look at the network and at pip's index (`pip config list`), or fetch the "
        "wheel elsewhere and give it with --from FILE"
    )
