"""The engine's process, forked from a server that imports vLLM while this process does.

On CPUs vLLM starts its engine in a new interpreter, which imports everything once more when this one is done. A fork
server begins at once, and what it forks has the imports behind it. vLLM's reasons against forking don't hold for it: it
has one thread, no connection and no device. Knows nothing of what the engine does.
"""

from __future__ import annotations

import multiprocessing
import os
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

_IMPORTS = ["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"]


class _Process(ForkServerProcess):
    """A forked process in the environment of the moment it is started, not in the server's."""

    def start(self) -> None:
        self._environment = dict(os.environ)
        super().start()

    def run(self) -> None:
        # What the server was preloaded with is preloaded here as well, and vLLM looks for it under this name.
        preloaded = os.environ.get("LD_PRELOAD")
        os.environ.clear()
        os.environ.update(self._environment)
        if preloaded is not None:
            os.environ["LD_PRELOAD"] = preloaded
        super().run()


class _Context(ForkServerContext):
    Process = _Process


def start() -> None:
    """Start the server, which begins to import; to be called before this process imports vLLM."""
    multiprocessing.set_forkserver_preload(_IMPORTS)
    before = os.environ.get("LD_PRELOAD")
    # As vLLM does for its new interpreters: its allocator, and the OpenMP that torch brings.
    os.environ["LD_PRELOAD"] = ":".join([*_libraries(), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["LD_PRELOAD"]
        else:
            os.environ["LD_PRELOAD"] = before


def serve_engines() -> None:
    """Have vLLM take its engine's process from the server."""
    from vllm.v1.engine import utils

    utils.get_mp_context = _Context  # type: ignore[attr-defined]


def _libraries() -> list[str]:
    found: list[str] = []
    for package, pattern in (("vllm", "libs/libtcmalloc*.so*"), ("torch", "lib/libgomp*.so*")):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [str(path) for path in sorted(Path(spec.origin).parent.glob(pattern))[:1]]
    return found
