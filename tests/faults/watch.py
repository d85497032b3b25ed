"""A look at an attacked system once a second: when learning came on, and how much memory all its processes take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any, Self

import psutil

_MEMORY_EVERY_S = 10.0


class Watch:
    """`publications` are the monotonic times at which some domain's version in service was first seen to be another,
    `counted` the examples that were known, by time; `memory` holds (time, bytes) of the whole family, each page once
    (PSS)."""

    def __init__(self, status: Callable[[], dict[str, Any]], family: Callable[[], list[psutil.Process]]) -> None:
        self._status, self._family = status, family
        self.publications: list[float] = []
        self.counted: list[tuple[float, int]] = []
        self.memory: list[tuple[float, int]] = []
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

    def growth(self, since: float, until: float) -> float:
        """The last quarter's median memory against the first quarter's, within these times, as a share of it."""
        taken = [size for moment, size in self.memory if since <= moment <= until]
        quarter = len(taken) // 4
        return median(taken[-quarter:]) / median(taken[:quarter]) - 1.0 if quarter else 0.0

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
        total = 0
        for process in self._family():
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        self.memory.append((time.monotonic(), total))
