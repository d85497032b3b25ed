"""`anabranch up` on a Ray cluster, with a memory engine in each replica in the place of vLLM.

    python -m tests.faults.chaos_program KEY=VALUE ...

All else is what a user runs: supervisor, actors, Serve with its proxies, replicas in processes of their own.
"""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial

from cluster import frontdoor, runtime
from configs.loader import load
from tests.cluster.replicas import on_memory


def main() -> None:
    """Run until a signal."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    runtime.application = partial(frontdoor.application, start=on_memory)  # type: ignore[attr-defined]
    with runtime.Runtime(load("demo", sys.argv[1:])) as running:
        print(f"ready: {running.url}/v1", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
