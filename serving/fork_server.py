"""The engine's process, forked from a server that imports vLLM while this process does.

On CPUs vLLM starts its engine in a new interpreter, which imports everything once more when this one has done so. A fork
server begins at once, and what it forks has the imports behind it. vLLM's reasons against a fork don't hold for it: it
has one thread, no connection and no device. Knows nothing of what the engine does.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

_IMPORTS = ["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"]


class _Process(ForkServerProcess):
    """A forked process in the environment of the moment it is started, not of the server's."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        os.environ.update(self._environment)
        super().run()


class _Context(ForkServerContext):
    Process = _Process


def start() -> None:
    """Start the server, which begins to import. Call it before this process imports vLLM."""
    multiprocessing.set_forkserver_preload(_IMPORTS)
    with _preloaded_libraries():
        forkserver.ensure_running()


def serve_vllm() -> None:
    """Have vLLM take its engine's process from the server; it would choose a new interpreter on every CPU."""
    from vllm.v1.engine import utils

    utils.get_mp_context = _Context


@contextmanager
def _preloaded_libraries() -> Iterator[None]:
    """What vLLM has the loader load first into its engine: its allocator and torch's OpenMP."""
    from importlib.util import find_spec

    before = os.environ.get("LD_PRELOAD")
    places = [Path(str(find_spec(name).origin)).parent for name in ("vllm", "torch")]
