"""Everything in a registry that a system would start on or serve, read and compared. Changes nothing, and works beside
a writer.

What this module does not know: what the state means, and who follows it.
"""

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

from registry.errors import RegistryError
from registry.keys import KeyStore
from registry.registry import Registry

T = TypeVar("T")

_LOOKS = 5


def verify(registry: Registry) -> list[str]:
    """Return what is wrong, in lines; empty where head, run, snapshots, segments, manifests, weights and versions are
    whole, as far as they are kept.

    What is found is looked at again, as a writer may have committed and pruned meanwhile: damage stays.
    """
    before: list[str] = []
    for _ in range(_LOOKS):
        wrong = _look(registry)
        if not wrong or wrong == before:
            return wrong
        before = wrong
    # Something else each time: the writer waits while this is settled.
    with registry.storage.exclusive():
        return _look(registry)


def _look(registry: Registry) -> list[str]:
    return list(dict.fromkeys(_Look(registry).wrong()))


class _Look:
    """One pass over all files."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._wholeness = registry, registry.wholeness()

    def wrong(self) -> Iterator[str]:
        """Say what is wrong with what is in force, what came before, and who may write."""
        registry = self._registry
        yield from self._try(registry.epoch)
        yield from self._try(KeyStore(registry.storage).read)
        head = yield from self._try(registry.head)
        if head is not None:
            yield from self._in_force()
            # Others belong to no line that is in force.
            for _, found in registry.history.line(head.previous, head.snapshot, beyond_gaps=False):
                yield from self._wholeness.faults(found)
        adapters, damaged = registry.survey()
        yield from map(str, damaged.values())
        for adapter in adapters:
            yield from self._wholeness.adapter(adapter.name)
            yield from self._wholeness.exam(adapter.name)

    def _in_force(self) -> Iterator[str]:
        registry = self._registry
        snapshot = yield from self._try(registry.snapshot)
        if snapshot is not None:
            yield from self._wholeness.segments(snapshot)
        chain = yield from self._try(registry.chain)
        if chain is None:
            return
        yield from (f"{error}; restore the file from a backup" for error in chain.damaged.values())
        for manifest in chain.manifests:
            yield from self._wholeness.manifest(manifest)

    def _try(self, look: Callable[[], T]) -> Generator[str, None, T | None]:
        """What `look` gives; None, with a line said, where it can't."""
        try:
            return look()
        except (RegistryError, OSError) as error:
            yield str(error)
            return None
