"""The meter of all replicas: what keys have used, counted in one place, so that quotas are exact across replicas.

It holds requests of the last minute in memory alone, which replicas tell it of again when it has begun anew; tokens of
the day are written to the registry within `save_seconds` of a change. So a crash of it loses at most the tokens of that
long. Plain asyncio; it knows neither HTTP nor the transport.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from actors.errors import in_words
from registry.errors import DigestMismatch
from registry.layout import Layout
from registry.records import sealed, unsealed
from registry.storage import Storage, Tag, again
from serving.meter import Meter, Quota
from serving.quotas import MeterPort, Ruling

_REPLICAS = 10_000
"""Of so many the last report's number is known: those that are no more are forgotten, the longest silent first."""

_LOG = logging.getLogger(__name__)


class QuotaMeter:
    """Made once in a system, over the storage of its registry."""

    def __init__(self, storage: Storage, *, save_seconds: float = 5.0, meter: Meter | None = None) -> None:
        self._storage, self._save_seconds = storage, save_seconds
        self._place = Layout(storage).usage
        self._meter = meter or Meter()
        self._run = uuid.uuid4().hex
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._saving: asyncio.Task[None] | None = None
        self._changed = False
        self._meter.restore(self._kept()[0])

    async def take(self, key: str, quota: Quota) -> Ruling:
        """Admit a request of a key and count it, or say why not."""
        excess = self._meter.take(key, quota)
        return Ruling(self._run, self._meter.used(key), excess)

    async def report(
        self, replica: str, number: int, tokens: Mapping[str, int], ages: Mapping[str, Sequence[float]]
    ) -> None:
        """Count what a replica has seen, once for each number: they only rise."""
        if number <= self._numbers.get(replica, 0):
            return
        self._numbers[replica] = number
        self._numbers.move_to_end(replica)
        while len(self._numbers) > _REPLICAS:
            self._numbers.popitem(last=False)
        for key, some in ages.items():
            self._meter.admitted(key, some)
        for key, used in tokens.items():
            self._meter.spend(key, used)
        if tokens:
            self._changed = True
            if self._saving is None or self._saving.done():
                self._saving = asyncio.create_task(self._save())

    async def _save(self) -> None:
        while self._changed:
            await asyncio.sleep(self._save_seconds)
            self._changed = False
            try:
                await asyncio.to_thread(self._write, self._meter.days())
            except Exception as error:
                self._changed = True
                _LOG.warning("what keys have used is not written: %s", in_words(error))

    def _write(self, days: Mapping[int, Mapping[str, int]]) -> None:
        def attempt() -> None:
            # Another meter may still write, where a node was cut off: the greater count holds.
            there, tag = self._kept()
            merged = Meter()
            merged.restore(there)
            merged.restore(days)
            newest = dict(sorted(merged.days().items())[-2:])
            text = {str(day): keys for day, keys in newest.items()}
            self._storage.replace(self._place.key, sealed({"tokens": text}, "usage.json"), tag)

        with self._storage.exclusive():
            again(attempt)

    def _kept(self) -> tuple[dict[int, dict[str, int]], Tag | None]:
        tag: Tag | None = None
        with suppress(FileNotFoundError):
            content, tag = self._storage.read_tagged(self._place.key)
            try:
                days = unsealed(content, self._place, "it is written anew")["tokens"]
                return {
                    int(day): {str(key): int(used) for key, used in keys.items()} for day, keys in days.items()
                }, tag
            except (DigestMismatch, KeyError, TypeError, ValueError, AttributeError) as error:
                _LOG.warning("what keys had used is not known any more: %s", error)
        return {}, tag


if TYPE_CHECKING:

    def _meets(actor: QuotaMeter) -> MeterPort:
        return actor
