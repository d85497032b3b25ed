"""A copy of a registry as it is in force at one moment, made while its writer goes on.

Files never change, so copying is all there is to it; the head is written last, and a folder without one is no registry.
What has gone meanwhile is copied anew from what is in force then, and only what is new of it. What this module does not
know: what else lies in a home.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from registry.atomic import exclusive, sync_folder, write_file
from registry.errors import RegistryError
from registry.head import Head
from registry.layout import Layout
from registry.registry import Registry
from registry.verification import verify

_TRIES_BESIDE_A_WRITER = 5


def back_up(registry: Registry, target: Path) -> list[str]:
    """Copy the snapshot and the manifest in force, with all they name and all versions, into the new folder `target`.

    Returns what is wrong with the copy, in lines: it is as the original was, but for manifests that are damaged and not
    in force, and those before them. Raises RegistryError where what is in force can't be read, and where the copy can't
    be written.
    """
    source, copy = Layout(registry.root), Layout(target)
    try:
        copy.create()
        for path in (source.lineage, source.epoch):
            if path.exists():
                _copy(path, copy.root / path.name)
        for _ in range(_TRIES_BESIDE_A_WRITER):
            with suppress(FileNotFoundError):
                head, wanted = _copy_in_force(registry, source, copy)
                break
        else:
            # Overtaken each time, or a file is lost: what is left to copy is little, and the writer waits for it.
            with exclusive(source.lock):
                head, wanted = _copy_in_force(registry, source, copy, whole=False)
        before = registry.chain().damaged.values()
        _drop_all_but(wanted, copy)
        write_file(copy.head, head.to_bytes(registry.lineage))
        for folder in {copy.root, *(path.parent for path in copy.root.rglob("*"))}:
            sync_folder(folder)
    except OSError as error:
        raise RegistryError(f"backup of {registry.root} to {target}: {error}; mend that and begin a new one") from error
    left_out = [f"{error}; it is left out of the copy, with what came before it" for error in before]
    return [*left_out, *verify(Registry(target))]


def _copy_in_force(registry: Registry, source: Layout, copy: Layout, *, whole: bool = True) -> tuple[Head, set[Path]]:
    """Copy what is in force; unless it is to be `whole`, what is not there is left to whoever verifies the copy."""
    head = registry.head()
    wanted = set(_in_force(registry, source, head))
    for path in sorted(wanted):
        if whole or (source.root / path).exists():
            _copy(source.root / path, copy.root / path)
    return head, wanted


def _in_force(registry: Registry, layout: Layout, head: Head) -> Iterator[Path]:
    """Every file that is needed, relative to the root; raises FileNotFoundError for what has gone meanwhile."""
    snapshot = registry.snapshot() if head.snapshot else None
    if registry.head() != head:
        raise FileNotFoundError("a commit came in between")
    paths: list[Path] = []
    if snapshot is not None:
        paths.append(layout.snapshot(head.snapshot, head.snapshot_digest))
        paths += map(registry.segments.path, snapshot.segments)
    adapters, damaged = registry.survey()
    states, bases = {each.facts.state for each in adapters}, {each.facts.base_delta for each in adapters}
    for manifest in registry.manifests():
        paths.append(layout.manifest(manifest.number))
        if manifest.router is not None:
            paths.append(layout.root / manifest.router.path)
        states.update(manifest.states.values())
        bases.add(manifest.base.delta)
    for store, names in ((registry.states, states), (registry.bases, bases)):
        # Of what only an older version names, the folder may have gone.
        for folder in [store.path(name) for name in names if name]:
            paths += folder.iterdir() if folder.is_dir() else ()
    # Those too: their numbers are given, and somebody may restore them.
    for name in (*(adapter.name for adapter in adapters), *damaged):
        paths += [path for path in (layout.adapters / name).iterdir() if path.is_file()]
    yield from (path.relative_to(layout.root) for path in paths)


def _copy(path: Path, target: Path) -> None:
    """Copy a file durably, unless an earlier try has."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partly = target.with_name(f"{target.name}.part")
    shutil.copyfile(path, partly)
    with partly.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(partly, target)


def _drop_all_but(wanted: set[Path], layout: Layout) -> None:
    """Delete what earlier tries copied and the last did not need."""
    folders = (layout.adapters, layout.states, layout.bases)
    for folder in (layout.snapshots, layout.segments, layout.manifests, layout.routers, *folders):
        for path in [each for each in folder.rglob("*") if each.is_file()]:
            if path.relative_to(layout.root) not in wanted:
                path.unlink()
    for path in [path for folder in folders for path in folder.iterdir()]:
        if not any(path.iterdir()):
            path.rmdir()
