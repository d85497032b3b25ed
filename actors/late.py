"""A part that takes seconds to load, without keeping its process's start waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar, cast

T = TypeVar("T")


class _Late:
    """Stands for what `load` returns; whoever uses it first waits for it.

    A load that failed is tried again at the next use, which raises its error if it fails again.
    """

    def __init__(self, load: Callable[[], object], yields: bool) -> None:
        self._load, self._yields = load, yields
        self._lock = threading.Lock()
        self._loaded: Future[object] = Future()
        threading.Thread(target=self._load_behind, name="load", daemon=True).start()

    def _load_behind(self) -> None:
        if self._yields:
            # Linux counts niceness by thread, and this one ends. Elsewhere it may be refused, which costs time only.
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        self._try(self._loaded)

    def _try(self, loaded: Future[object]) -> None:
        try:
            loaded.set_result(self._load())
        except BaseException as error:
            loaded.set_exception(error)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            # Nobody's from outside, and what copies or pickles an object asks one that is not made yet.
            raise AttributeError(name)
        with self._lock:
            if self._loaded.done() and self._loaded.exception() is not None:
                self._loaded = Future()
                self._try(self._loaded)
            loaded = self._loaded
        return getattr(loaded.result(), name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            raise AttributeError(f"{name}: what is loaded late is read through here only; set it where it is loaded")
        super().__setattr__(name, value)


def late(load: Callable[[], T], *, yields: bool = False) -> T:
    """What `load` returns, loaded in a thread from now on; attribute accesses wait for it, and raise what it raised.

    With `yields`, other processes that start go first. Not for a process that has more to do meanwhile: its threads
    would wait for one that holds the interpreter and does not get a core.
    """
    return cast(T, _Late(load, yields))
