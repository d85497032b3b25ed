"""A bucket whose line breaks, or whose user dies, at any request that changes something."""

from collections.abc import Callable
from typing import Any, TypeVar

import obstore
from obstore.store import MemoryStore

from registry.bucket import Bucket
from registry.errors import StoreAway
from tests.registry.machine import Died

T = TypeVar("T")

HOWS = ("dies-before", "dies-after", "refused", "answer-lost")


class Line(Bucket):
    """What `of` holds, asked over a line that fails at the change numbered `fails_at`.

    The process is gone before or after the request, for good; or it goes on, and was refused, or the request took
    effect and only its answer is lost.
    """

    def __init__(self, of: Bucket, how: str, fails_at: int | None = None) -> None:
        super().__init__(of._store, of.root, of._copies._folder)
        self.changes = 0
        self.failed = False
        self._how, self._fails_at, self._dead = how, fails_at, False

    def _ask(self, kind: str, key: str, request: Callable[[], T]) -> T:
        if self._dead:
            raise Died
        if kind not in ("put", "delete"):
            return super()._ask(kind, key, request)
        self.changes += 1
        if self.changes != self._fails_at:
            return super()._ask(kind, key, request)
        self.failed, self._dead = True, self._how.startswith("dies")
        if self._how in ("dies-after", "answer-lost"):
            super()._ask(kind, key, request)
        if self._dead:
            raise Died
        raise StoreAway(f"{self.root}/{key}: {kind} failed: the line is broken")

    def run(self, action: Callable[[], Any]) -> bool:
        """Whether `action` got to its end before its process died."""
        try:
            action()
        except Died:
            return False
        return True


def copied(bucket: Bucket, name: str) -> Bucket:
    """A bucket in memory with the same objects; the head is the youngest, as a commit leaves it."""
    store = MemoryStore()
    metas = obstore.list(bucket._store).collect()
    for key in sorted((meta["path"] for meta in metas), key=lambda key: (key == "head.json", key)):
        obstore.put(store, key, obstore.get(bucket._store, key).bytes())
    return Bucket(store, f"memory://{name}", bucket._copies._folder.parent / f"{name}-copies")
