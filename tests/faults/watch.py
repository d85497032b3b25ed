"""A look at an attacked system once a second: when learning came on, and how much memory all its processes take."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from statistics import median
from typing import Any, Self

import psutil

_MEMORY_EVERY_S = 10.0


class Watch:
    """`publications` are the monotonic times at which some domain's version in service was first seen to be another,
    `counted` the examples that were known, by time; `memory` holds the time and the bytes of each kind of process in
    the family, each page once (PSS)."""

    def __init__(self, status: Callable[[], dict[str, Any]], family: Callable[[], dict[psutil.Process, str]]) -> None:
        self._status, self._family = status, family
        self.publications: list[float] = []
        self.counted: list[tuple[float, int]] = []
        self.memory: list[tuple[float, Counter[str]]] = []
        self._versions: dict[str, Any] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(step, every), name=f"watch {step.__name__}", daemon=True)
            for step, every in ((self._look, 1.0), (self._weigh, _MEMORY_EVERY_S))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    def seconds_until_learned(self, moment: float, sent: int) -> float | None:
        """Seconds from a moment, by which `sent` examples had been sent, until all of them are counted and a version is
        published after that; None where that has not come yet."""
        counted = next((when for when, known in self.counted if when > moment and known >= sent), None)
        if counted is None:
            return None
        return next((each - moment for each in self.publications if each >= counted), None)

    def quarters(self, since: float, until: float) -> dict[str, tuple[float, float]]:
        """Of each kind of process the median bytes in the first quarter of this time and in the last; and of `all`."""
        taken = [{**sizes, "all": sizes.total()} for moment, sizes in self.memory if since <= moment <= until]
        quarter = max(len(taken) // 4, 1)
        return {
            kind: (_median(taken[:quarter], kind), _median(taken[-quarter:], kind))
            for kind in sorted(set().union(*taken))
        }

    def _repeat(self, step: Callable[[], None], every: float) -> None:
        while not self._stop.is_set():
            step()
            self._stop.wait(every)

    def _look(self) -> None:
        domains = self._status().get("domains", ())
        if domains:
            self.counted.append((time.monotonic(), sum(each["examples"] for each in domains)))
        for each in domains:
            if each["version"] != self._versions.get(each["domain"]):
                self._versions[each["domain"]] = each["version"]
                self.publications.append(time.monotonic())

    def _weigh(self) -> None:
        sizes: Counter[str] = Counter()
        for process, kind in self._family().items():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                sizes[kind] += process.memory_full_info().pss
        self.memory.append((time.monotonic(), sizes))


def _median(taken: list[dict[str, int]], kind: str) -> float:
    return median(each.get(kind, 0) for each in taken)
