"""A process that trains the second of two domains from wherever another one has left it; run by `test_killed`.

Arguments: the base's folder, the kind of method, the steps between checkpoints, a folder that such processes share, and
one of its own. In the shared folder it says which steps it makes; in its own it learns the first domain anew, which
gives the same.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from actors.unfinished import Unfinished
from learning import resumption
from learning.contract import Progress
from learning.template import PromptTemplate
from registry.disk import Disk
from tests.learning.bases import TEMPLATE
from tests.learning.interruptions import StepClock, made, second_job

MANY = {"max_steps": 120, "max_epochs": 50.0, "evaluate_every": 20}
"""Steps to be killed among, of a few milliseconds each."""


def main(base: Path, kind: str, interval: int, shared: Path, work: Path) -> None:
    """Train to the end, unless it is killed."""
    clock = StepClock()
    resumption.monotonic = lambda: clock.now
    method = made(base, PromptTemplate(str(base), TEMPLATE, "\n"), kind, **MANY, checkpoint_seconds=float(interval))
    second = second_job(method, work)
    with (shared / "steps").open("a", encoding="ascii", buffering=1) as log:

        def note(progress: Progress) -> None:
            clock(progress)
            log.write(f"{progress.resumed_from} {progress.step}\n")

        method.train(replace(second, checkpoints=Unfinished(Disk(shared / "kept"), 1 << 30).of("shapes", 1)), note)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
