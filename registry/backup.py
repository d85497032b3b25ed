"""A copy of a registry as it is in force at one moment, made while its writer goes on.

Files never change, so copying is all there is to it; the head is written last, and a folder without one is no registry.
What has gone meanwhile is copied anew from what is in force then, and only what is new of it. What this module does not
know: what else lies in a home.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from registry.adapters import FOLDER, number_key, parsed_name
from registry.disk import Disk
from registry.errors import RegistryError
from registry.head import Head
from registry.layout import Layout
from registry.registry import Registry
from registry.storage import Content, Place, Storage
from registry.verification import verify

_TRIES_BESIDE_A_WRITER = 5


@dataclass
class _Needed:
    """What is in force needs these."""

    files: dict[str, tuple[Place, str]] = field(default_factory=dict)
    """By key in the copy, where it lies, and the digest that its name stands for."""
    folders: list[str] = field(default_factory=list)


def back_up(registry: Registry, target: Path | Storage) -> list[str]:
    """Copy the snapshot and the manifest in force, with all they name and all versions, to the new root `target`.

    Returns what is wrong with the copy, in lines: it is as the original was, but for manifests that are damaged and not
    in force, and those before them. Raises RegistryError where what is in force can't be read, and where the copy can't
    be written.
    """
    target = Disk(target) if isinstance(target, Path) else target
    source, copy = Layout(registry.storage), Layout(target)
    try:
        if copy.has_content() or copy.lineage.is_there():
            raise RegistryError(f"backup to {target.root}: expected a new or an empty place, got something in it")
        copy.create()
        for place in (source.lineage, source.epoch, source.keys, source.usage):
            if place.is_there():
                target.replace(place.key, place.read(), None)
        for _ in range(_TRIES_BESIDE_A_WRITER):
            with suppress(FileNotFoundError):
                head, needed = _copy_in_force(registry, source, copy)
                break
        else:
            # Overtaken each time, or a file is lost: what is left to copy is little, and the writer waits for it.
            with registry.storage.exclusive():
                head, needed = _copy_in_force(registry, source, copy, whole=False)
        before = registry.chain().damaged.values()
        _drop_all_but(needed, target)
        target.replace(copy.head.key, head.to_bytes(registry.lineage), None)
    except OSError as error:
        raise RegistryError(
            f"backup of {registry.root} to {target.root}: {error}; mend that and begin a new one"
        ) from error
    left_out = [f"{error}; it is left out of the copy, with what came before it" for error in before]
    return [*left_out, *verify(Registry(target))]


def _copy_in_force(registry: Registry, source: Layout, copy: Layout, *, whole: bool = True) -> tuple[Head, _Needed]:
    """Copy what is in force; unless it is to be `whole`, what is not there is left to whoever verifies the copy."""
    head = registry.head()
    needed = _in_force(registry, source, copy, head)
    for key, (place, digest) in sorted(needed.files.items()):
        try:
            _copy(place, key, digest, copy.storage)
        except FileNotFoundError:
            if whole:
                raise
    for key in needed.folders:
        try:
            _copy_folder(key, source.storage, copy.storage)
        except FileNotFoundError:
            if whole:
                raise
    return head, needed


def _in_force(registry: Registry, source: Layout, copy: Layout, head: Head) -> _Needed:
    """All that is needed; raises FileNotFoundError where it is overtaken."""
    snapshot = registry.snapshot() if head.snapshot else None
    if registry.head() != head:
        raise FileNotFoundError("a commit came in between")
    needed = _Needed()
    if snapshot is not None:
        place = source.snapshot(head.snapshot, head.snapshot_digest)
        needed.files[place.key] = (place, head.snapshot_digest)
        needed.files |= {(place := registry.segments.place(name)).key: (place, name) for name in snapshot.segments}
    adapters, damaged = registry.survey()
    states, bases = {each.facts.state for each in adapters}, {each.facts.base_delta for each in adapters}
    for manifest in registry.manifests():
        named = (manifest.number, manifest.digest())
        needed.files[copy.manifest(*named).key] = (source.manifest(*named), named[1])
        if (router := manifest.router) is not None:
            needed.files[router.path] = (source.place(router.path), router.digest)
        states.update(manifest.states.values())
        bases.add(manifest.base.delta)
    # Of what only an older version names, the folder may have gone.
    folders = [*(f"states/{name}" for name in states if name), *(f"bases/{name}" for name in bases if name)]
    needed.folders += [key for key in sorted(folders) if source.storage.has_folder(key)]
    # Damaged ones too: their numbers are given, and somebody may restore them.
    needed.folders += sorted(f"{FOLDER}/{name}" for name in (*(adapter.name for adapter in adapters), *damaged))
    return needed


def _copy(place: Place, key: str, digest: str, target: Storage) -> None:
    """Copy a file durably, unless an earlier try has."""
    with suppress(FileNotFoundError):
        target.size(key)
        return
    target.keep(key, [place.read()], digest)


def _copy_folder(key: str, source: Storage, target: Storage) -> None:
    """The same with a folder."""
    if target.has_folder(key):
        return
    files: dict[str, Content] = {name: source.read_in(key, name) for name in source.contents(key)}
    target.keep_folder(key, files)
    if target.keeps_all and (number := parsed_name(key.removeprefix(f"{FOLDER}/"))) is not None:
        target.settle(number_key(*number), key.removeprefix(f"{FOLDER}/"))


def _drop_all_but(needed: _Needed, target: Storage) -> None:
    """Delete what earlier tries copied and the last did not need."""
    for folder in ("snapshots", "segments", "manifests", "routers"):
        target.remove([entry.key for entry in target.entries(folder) if entry.key not in needed.files])
    for folder in (FOLDER, "states", "bases"):
        for entry in target.folders(folder):
            if entry.key not in needed.folders:
                target.remove_folder(entry.key)
