"""Decisions of all replicas on the requests of late, kept for a person to look at. Only added to, and bounded.

    decisions/<time>-<writer>-<count>.jsonl     some seconds of one replica's, in order

A decision's id is its file's name and its place there. They are figures, not facts that anything rests on: a line that
can't be read is passed over. What this module does not know: what a decision is.
"""

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from registry.errors import RegistryError
from registry.storage import Storage

_FOLDER = "decisions"
_NAME = re.compile(r"^(\d{8}T\d{6}\.\d{6}-[0-9a-f]{8}-(\d{1,9}))\.jsonl$")
_ID = re.compile(r"^(\d{8}T\d{6}\.\d{6}-[0-9a-f]{8}-\d{1,9})-(\d{1,9})$")
_LOOKED_AFTER = 20
"""Files of one process between two looks at how many there are."""
_LOG = logging.getLogger(__name__)


class DecisionLog:
    """The decisions below one root, about `keep` of them."""

    def __init__(self, storage: Storage, keep: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._storage, self.keep, self._now = storage, keep, now
        self._written = 0

    def put(self, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Keep these, oldest first; RegistryError where that can't be."""
        if not decisions:
            return
        text = "".join(json.dumps(each) + "\n" for each in decisions).encode()
        key = f"{_FOLDER}/{self._now():%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}-{len(decisions)}.jsonl"
        try:
            self._storage.keep(key, [text], hashlib.sha256(text).hexdigest())
            if self._written % _LOOKED_AFTER == 0:
                self._bound()
        except OSError as error:
            raise RegistryError(f"{self._storage.root}/{key}: can't be written: {error}; mend the disk") from error
        self._written += 1

    def newest(self, before: str = "") -> Iterator[dict[str, Any]]:
        """All of them, each with its `id`, newest first; with `before`, those older than that one. RegistryError where
        they can't be read."""
        # An id's place is a number: of one file, ten comes after nine.
        bound = _ID.match(before)
        try:
            for name, _ in sorted(self._files(), reverse=True):
                if bound is not None and name > bound[1]:
                    continue
                for place, found in self._decisions(name):
                    if bound is None or name < bound[1] or place < int(bound[2]):
                        yield found
        except OSError as error:
            raise RegistryError(f"{self._storage.root}/{_FOLDER}: can't be read: {error}; mend the disk") from error

    def find(self, wanted: str) -> dict[str, Any] | None:
        """The decision of that id; None where there is none, or none any more."""
        named = _ID.match(wanted)
        if named is None:
            return None
        try:
            return next((found for place, found in self._decisions(named[1]) if place == int(named[2])), None)
        except OSError as error:
            raise RegistryError(f"{self._storage.root}/{_FOLDER}: can't be read: {error}; mend the disk") from error

    def _files(self) -> Iterator[tuple[str, int]]:
        """Name and count of each file."""
        for entry in self._storage.entries(_FOLDER):
            if match := _NAME.match(entry.name):
                yield match[1], int(match[2])

    def _decisions(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Those of one file with their places, newest first; none of a file that was removed meanwhile."""
        try:
            lines = self._storage.read(f"{_FOLDER}/{name}.jsonl").splitlines()
        except FileNotFoundError:
            return
        for place, line in reversed(list(enumerate(lines))):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield place, {**found, "id": f"{name}-{place}"}

    def _bound(self) -> None:
        kept = 0
        surplus = []
        for name, count in sorted(self._files(), reverse=True):
            if kept >= self.keep:
                surplus.append(f"{_FOLDER}/{name}.jsonl")
            kept += count
        self._remove(surplus)

    def _remove(self, keys: Collection[str]) -> None:
        try:
            if keys:
                self._storage.remove(keys)
        except (OSError, RegistryError) as error:
            _LOG.warning("old decisions were not removed: %s", error)
