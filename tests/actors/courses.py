"""Random courses of events over a world, each drawn from a number, told as a list of steps, and judged at its end.

By hand, 10,000 of them and what to do with one that fails:

    PYTHONHASHSEED=0 python -m tests.actors.courses 0 10000
    PYTHONHASHSEED=0 python -m tests.actors.courses 4711 --shrink
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from actors.change import Change
from streaming.records import TaskRecord
from streaming.source import TopicPartition
from tests.actors.clock import skew
from tests.actors.judgement import judge, judge_residues, judge_served
from tests.actors.memory_log import TOPIC
from tests.actors.world import DOMAINS, PARTITIONS, World, Wrong, mortal_modules

Step = tuple[Any, ...]
MEMORY = Path("/dev/shm")
"""Processes die in a course, machines don't: to wait for a disk would be most of its time."""
EXAMPLES = 30
"""Of each domain; a course sends ranges of them, many more than once."""


class Failed(Exception):
    """A course has ended in what must never be; its text tells the course."""

    def __init__(self, seed: int, steps: Sequence[Step], why: str) -> None:
        told = "\n".join(f"    {step!r}," for step in steps)
        super().__init__(f"course {seed}: {why}\n{told}")
        self.steps, self.why = list(steps), why


# -- drawing ----------------------------------------------------------------------------------------------------------


def draw(seed: int) -> list[Step]:
    """The steps of a course. The first one says how the world is made."""
    random = Random(seed)
    steps: list[Step] = [("world", random.choice([1, 2, 2, 3]), random.choice([10_000, 10_000, 24]))]
    wild = random.random()
    for _ in range(random.randint(10, 60)):
        steps.append(_step(random, wild))
    return steps


def _step(random: Random, wild: float) -> Step:
    kinds = _TAME if random.random() > wild * 0.5 else _WILD
    return random.choice(kinds)(random)


def _send(random: Random) -> Step:
    start, count = random.randrange(EXAMPLES), random.randint(1, 10)
    numbers = [(start + number) % EXAMPLES for number in range(count)]
    if random.random() < 0.3:
        random.shuffle(numbers)
    where = random.choice([None, None, None, random.randrange(PARTITIONS)])
    return ("send", random.choice(DOMAINS), tuple(numbers), where, random.random() < 0.3)


def _job(random: Random) -> Step:
    inner = [_step(random, 0.5) for _ in range(random.choice([0, 0, 0, 1, 3]))]
    return ("job", random.choice([0, 0, 1, 2]), tuple(step for step in inner if step[0] in _MEANWHILE))


def _die(random: Random) -> Step:
    who = random.choice(["router", "router", "coordinator", "coordinator", "learner", "ingest-0", "ingest-1"])
    return ("die", who, min(int(random.expovariate(0.08)), 60))


def _domain(name: str) -> Callable[[Random], Step]:
    return lambda random: (name, random.choice(DOMAINS))


def _worker(name: str) -> Callable[[Random], Step]:
    return lambda random: (name, random.randrange(3))


def _number(name: str, *choices: Any) -> Callable[[Random], Step]:
    return lambda random: (name, random.choice(choices))


def _mark(random: Random) -> Step:
    return ("mark", random.choice(DOMAINS), random.choice([None, None, random.randrange(PARTITIONS)]))


def _truncate(random: Random) -> Step:
    return ("truncate", random.randrange(PARTITIONS), round(random.random(), 2))


def _compact(random: Random) -> Step:
    return ("compact", random.randrange(PARTITIONS), round(random.random(), 2))


_TAME = [
    *[_send] * 6,
    *[_mark] * 3,
    *[_worker("poll")] * 6,
    *[_worker("observe")] * 6,
    *[lambda random: ("work",)] * 4,
    *[lambda random: ("tick",)] * 4,
    *[_job] * 3,
    _number("wait", 1.0, 61.0, 700.0),
    _number("deal", 0, 1, 2),
]
_WILD = [
    *[_die] * 10,
    *[_domain("remove")] * 3,
    *[_domain("pin"), _domain("unpin"), _domain("rollback")],
    *[lambda random: ("reject", random.choice(DOMAINS), random.randint(1, 3))] * 2,
    lambda random: ("refuse training", random.choice(DOMAINS), 1),
    *[lambda random: ("forget", random.choice(DOMAINS), random.choice([1, 1, 2]))] * 3,
    _number("workers", 1, 2, 3),
    *[_worker("delete spool")] * 2,
    *[_truncate] * 2,
    _compact,
    *[_number("restart", "router", "coordinator", "ingest-0", "ingest-1", "all")] * 2,
    lambda random: ("zombie",),
    *[lambda random: ("zombie acts", random.choice(["remove", "seal", "lose", "publish"]), random.choice(DOMAINS))] * 2,
    _worker("zombie serves"),
    *[lambda random: ("refuse", random.choice(DOMAINS))] * 2,
    lambda random: ("take again",),
    _number("away", 1, 3, 8),
    lambda random: ("disk full", random.randint(0, 40), random.choice([1, 3, 12])),
    _number("damage", "head", "snapshot"),
    lambda random: ("backup",),
    _number("restore", True, False),
    lambda random: ("garbage", random.randrange(PARTITIONS)),
    lambda random: ("tidy",),
]
_MEANWHILE = {
    *("send", "mark", "poll", "observe", "remove", "restart", "delete spool", "truncate", "compact", "deal", "tick"),
}
"""What may happen while a training is under way."""


# -- happening --------------------------------------------------------------------------------------------------------


class Course:
    """A world and what happens in it."""

    def __init__(self, home: Path, steps: Sequence[Step]) -> None:
        (_, workers, spool_limit), *self.steps = steps
        self.world = World(home, workers=workers, spool_limit=spool_limit)

    def run(self) -> None:
        for step in self.steps:
            self.happen(step)
        self.finish()

    def happen(self, step: Step) -> None:
        kind, *how = step
        world = self.world
        match kind:
            case "send":
                self._send(*how)
            case "mark":
                world.mark(*how)
            case "poll":
                world.poll_one(how[0])
            case "observe":
                world.observe_one(how[0])
            case "work":
                for index in range(len(world.ingests)):
                    for _ in range(6):
                        world.poll_one(index)
                        world.observe_one(index)
            case "tick":
                world.tick_once()
            case "job":
                world.during_training = [lambda inner=inner: self.happen(inner) for inner in how[1]]
                world.run_job(how[0])
                world.during_training = []
            case "wait":
                world.wait(how[0])
            case "deal":
                world.deal(how[0])
            case _:
                self._happen_wildly(kind, how)

    def _happen_wildly(self, kind: str, how: Sequence[Any]) -> None:
        world = self.world
        match kind:
            case "die":
                world.deaths.arm(*how)
            case "remove" | "pin" | "unpin" | "rollback":
                world.command(kind, how[0])
            case "reject":
                world.recorder.rejects[how[0]] = how[1]
            case "refuse training":
                world.recorder.fails[how[0]] = how[1]
            case "forget":
                world.recorder.forgets[how[0]] = how[1]
            case "workers":
                world.employ_workers(how[0])
            case "delete spool":
                world.delete_spool(how[0] % len(world.ingests))
            case "truncate":
                each = TopicPartition(TOPIC, how[0])
                world.stream.truncate(each, int(how[1] * (world.stream.ends()[each] + 1)))
            case "compact":
                self._compact(*how)
            case "restart":
                world.restart_all() if how[0] == "all" else world.revive(how[0])
            case "refuse":
                world.replicas.shelves[0].refuses.add(how[0])
            case "take again":
                world.replicas.shelves[0].refuses.clear()
            case "away":
                world.replicas.away = how[0]
            case "garbage":
                world.stream.log.append_raw(b"{no json", how[0])
            case "tidy":
                world.within("router", lambda: world.router.tidy())
            case _:
                self._happen_to_the_home(kind, how)

    def _happen_to_the_home(self, kind: str, how: Sequence[Any]) -> None:
        world = self.world
        match kind:
            case "zombie":
                world.zombify()
            case "zombie acts":
                world.zombie_acts(_ZOMBIES[how[0]](how[1]))
            case "zombie serves":
                world.serve_by_zombie(how[0])
            case "disk full":
                world.deaths.fill(*how)
            case "damage":
                world.damage_and_go_back(how[0])
            case "backup":
                world.back_up_once()
            case "restore":
                world.restore_last(keeps_spools=how[0])
            case _:
                raise ValueError(f"no such step: {kind}")

    def _send(self, domain: str, numbers: Sequence[int], where: int | None, otherwise: bool) -> None:
        for number in numbers:
            self.world.put(example(domain, number, otherwise=otherwise), where)

    def _compact(self, number: int, share: float) -> None:
        """Which entries go is drawn from the share: the same step takes the same offsets of a log as long."""
        each = TopicPartition(TOPIC, number)
        there = range(self.world.stream.log.firsts[each], self.world.stream.ends()[each])
        self.world.stream.compact(each, Random(share).sample(there, int(share * len(there))))

    def finish(self) -> None:
        """Nothing more happens to anybody: what was sent is completed, and must come to rest and be right."""
        world = self.world
        world.deaths.calm()
        world.recorder.rejects.clear()
        world.recorder.fails.clear()
        world.recorder.forgets.clear()
        world.replicas.shelves[0].refuses.clear()
        world.replicas.away = 0
        self._complete(DOMAINS, 1000)
        if pinned := world.pinned():
            self._complete(pinned, 2000)
            for domain in pinned:
                world.command("unpin", domain)
            world.rest()
            judge_served(world)
        world.let_the_past_go()
        judge_residues(world)

    def _complete(self, domains: Sequence[str], first: int) -> None:
        """A version of each of these domains is learned, and everything is right."""
        for domain in domains:
            for number in (first, first + 3):
                self.world.put(example(domain, number))
            self.world.mark(domain)
        self.world.rest()
        judge(self.world)


_ZOMBIES: dict[str, Callable[[str], Callable[[Any], Any]]] = {
    "remove": lambda domain: lambda router: router.publish(Change(reason="zombie", removes={domain: 99})),
    "seal": lambda domain: lambda router: router.seal(domain, 98, router.observed()),
    "lose": lambda _domain: lambda router: router.skip(TopicPartition(TOPIC, 0), 0, 99),
    "publish": lambda domain: lambda router: router.publish(Change(reason="zombie", pins={domain: True})),
}


def example(domain: str, number: int, *, otherwise: bool = False) -> TaskRecord:
    """One of the examples there are; `otherwise`, the same one in other words and for the other side of the exam."""
    text = f"what {domain} asks under {number}" + (", said otherwise" if otherwise else "")
    split = "test" if (number % 4 == 3) != otherwise else "train"
    return TaskRecord(id=f"{domain}-{number:04d}", domain=domain, prompt=text, completion="ok", split=split)


# -- running ----------------------------------------------------------------------------------------------------------


def run(seed: int, steps: Sequence[Step] | None = None) -> World:
    """Run a course to its end, in memory; raises `Failed`. Leaves nothing behind."""
    steps = draw(seed) if steps is None else steps
    home = Path(tempfile.mkdtemp(prefix="course-", dir=MEMORY if MEMORY.is_dir() else None))
    real, time.monotonic = time.monotonic, skew
    replaced: list[tuple[Any, Any]] = []
    world: World | None = None
    try:
        course = Course(home, steps)
        world = course.world
        for module, mortal in mortal_modules(world.deaths):
            replaced.append((module, module.os))
            module.os = mortal
        course.run()
        return world
    except Wrong as wrong:
        raise Failed(seed, steps, str(wrong)) from wrong
    except Exception as error:
        where = traceback.format_exc(limit=-6)
        raise Failed(seed, steps, f"{type(error).__name__}: {error}\n{where}") from error
    finally:
        for module, own in replaced:
            module.os = own
        time.monotonic = real
        if world is not None:
            for ingest in world.ingests:
                world._close(ingest)
        shutil.rmtree(home, ignore_errors=True)


def shrink(seed: int, steps: Sequence[Step], alike: Callable[[str], bool]) -> list[Step]:
    """Fewer steps that fail alike: larger pieces are left out first, then single ones, until none can be."""
    kept = list(steps)
    size = max(len(kept) // 2, 1)
    while size:
        place = 1
        shorter = False
        while place < len(kept):
            tried = kept[:place] + kept[place + size :]
            if _fails(seed, tried, alike):
                kept, shorter = tried, True
            else:
                place += size
        size = size if shorter and size == 1 else size // 2
    return kept


def _fails(seed: int, steps: Sequence[Step], alike: Callable[[str], bool]) -> bool:
    try:
        run(seed, steps)
    except Failed as failed:
        return alike(failed.why)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int, nargs="?", help="run all courses from FIRST up to END")
    parser.add_argument("--shrink", action="store_true", help="look for fewer steps that fail in the same words")
    parser.add_argument("--stop", type=int, default=20, help="stop after so many failures")
    chosen = parser.parse_args()
    started, failures = time.monotonic(), 0
    end = chosen.first + 1 if chosen.end is None else chosen.end
    for seed in range(chosen.first, end):
        try:
            run(seed)
        except Failed as failed:
            failures += 1
            print(failed, flush=True)
            if chosen.shrink:
                words = failed.why.split()[:4]
                steps = shrink(seed, failed.steps, lambda why, words=words: why.split()[:4] == words)
                try:
                    run(seed, steps)
                except Failed as shorter:
                    print(f"--- shrunk to\n{shorter}", flush=True)
            if failures == chosen.stop:
                break
        if seed % 200 == 199:
            gc.collect()
            print(f"{seed + 1 - chosen.first} courses, {failures} failed", end="\r", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    count = seed + 1 - chosen.first
    print(f"{count} courses, {failures} failed, {1000 * seconds / count:.0f} ms each")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
