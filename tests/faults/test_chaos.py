"""Three nodes under a constant load, attacked every 20 to 60 seconds: a process, a node or the broker is killed, or
stands still for a while. All else is what a user runs: Ray, Serve, Apache Kafka, actors, learners, replicas on vLLM.

`ANABRANCH_CHAOS_MINUTES` is how long it lasts (5), `ANABRANCH_SEED` chooses the course, `ANABRANCH_CHAOS_RESULT` names
a file for what was seen; without it that lies in `chaos.json` below the test's folder.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import builders
from configs.loader import load
from streaming.broker import ApacheKafkaBroker
from streaming.location import ensure_topic, open_sink
from tests.e2e.system import System, run
from tests.faults.clients import Clients, Request
from tests.faults.course import DOMAINS, PARTITIONS, SMALL, Course
from tests.faults.nodes import Nodes, Process, stopped
from tests.faults.settling import ask, ends_exact, predicts_as_batch_ridge, report
from tests.faults.watch import Watch

MINUTES = float(os.environ.get("ANABRANCH_CHAOS_MINUTES", "5"))
SEED = int(os.environ.get("ANABRANCH_SEED", "1"))
RESULT = os.environ.get("ANABRANCH_CHAOS_RESULT")
SHORTEST_S, LONGEST_S = 20.0, 60.0
"""Between attacks."""
RESUMES_S = 90.0
"""Learning has come on by then after each attack."""
MOST_GROWTH = 0.02
"""Of memory, over a run that is long enough to tell."""
LONG_ENOUGH_S = 20 * 60.0
SEND_EVERY_S = 8.0
ACTORS = ("router", "coordinator", "directory", "ingest-0", "ingest-1", "learner-0", "learner-1", "replica")
KINDS = ("kill", "stop", "kill", "stop", "node", "broker")
"""Of attacks; one of each in turn, in an order of its own. The directory is among the actors."""
TIMES = {"began", "ended"}
SETS = [
    *SMALL,
    "router.num_cpus=0.1",
    "learner.workers=2",
    "serving.replicas=2",
    "serving.num_cpus=0.1",
    "ray.num_cpus=null",
    "ray.object_store_bytes=null",
    "ray.placement=spread",
]

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.ray,
    pytest.mark.broker,
    pytest.mark.slow,
    pytest.mark.timeout(60 * MINUTES + 1500),
]


@dataclass
class Attack:
    """One attack: its times by the monotonic clock, and how many examples had been sent when it began."""

    began: float
    kind: str
    victim: str
    sent: int
    hits_replicas: bool
    ended: float = 0.0


class Chaos:
    """Attacks one after another, drawn from a seed."""

    def __init__(self, seed: int, nodes: Nodes, broker: ApacheKafkaBroker, course: Course, spools: Path) -> None:
        self._random = random.Random(seed)
        self._nodes, self._broker, self._course, self._spools = nodes, broker, course, spools
        self._kinds: list[str] = []
        self.attacks: list[Attack] = []

    def pause(self) -> float:
        return self._random.uniform(SHORTEST_S, LONGEST_S)

    def attack(self) -> None:
        """Do the next one; returns when what was stopped goes on, and a lost node has been replaced."""
        if not self._kinds:
            self._kinds = self._random.sample(KINDS, len(KINDS))
        kind = self._kinds.pop()
        seconds = self._random.uniform(2.0, 15.0)
        match kind:
            case "node":
                self._lose_a_node(seconds)
            case "broker":
                self._attack_the_broker(seconds)
            case _:
                self._attack_a_process(kind, seconds)
        self.attacks[-1].ended = time.monotonic()

    def _begin(self, kind: str, victim: str, *, hits_replicas: bool = False) -> None:
        self._course.note(f"{kind} {victim}")
        self.attacks.append(Attack(time.monotonic(), kind, victim, len(self._course.sent), hits_replicas))

    def _lose_a_node(self, seconds: float) -> None:
        """With the spools of the ingest workers there: they were on its disk."""
        node = self._random.choice(self._nodes.ids())
        there = [each for each in self._nodes.processes() if each.node == node]
        self._begin("node", ", ".join(_short(each) for each in there), hits_replicas=any(p.is_replica for p in there))
        self._nodes.lose(node)
        for spool in [path for each in there for path in self._spools.rglob(f"{each.actor}.sqlite*")]:
            spool.unlink(missing_ok=True)
        time.sleep(seconds)
        self._nodes.join()

    def _attack_the_broker(self, seconds: float) -> None:
        if self._random.random() < 0.5:
            self._begin("kill", "broker")
            self._broker.kill()
            time.sleep(seconds)
            self._broker.start()
            return
        self._begin("stop", "broker")
        assert self._broker.pid is not None
        with stopped(Process("broker", self._broker.pid, "", True)):
            time.sleep(seconds)

    def _attack_a_process(self, kind: str, seconds: float) -> None:
        victim = self._random.choice(ACTORS)
        found = [each for each in self._nodes.processes() if each.is_alive and _short(each) == victim]
        if not found:
            # Still away from the last attack.
            victim = "router"
            found = [each for each in self._nodes.processes() if _short(each) == victim]
        process = self._random.choice(found)
        self._begin(kind, victim, hits_replicas=process.is_replica)
        if kind == "kill":
            process.signal(signal.SIGKILL)
            return
        with stopped(process):
            # Some for as long as it takes until somebody ends it.
            time.sleep(seconds if self._random.random() < 0.7 else 45.0)


def _short(process: Process) -> str:
    return "replica" if process.is_replica else process.actor


def test_it_survives(tmp_path: Path, broker: ApacheKafkaBroker) -> None:
    """Learning comes on after each attack, nothing is lost or counted twice, and clients hardly notice."""
    with Nodes(2, cpus=4) as nodes:
        kafka = ["stream.kind=kafka", f"stream.bootstrap={broker.bootstrap}", "stream.topic=chaos"]
        sets = [*SETS, *kafka, f"ray.address={nodes.address}"]
        sets += [f"ingest.spool_folder={tmp_path / 'spools'}"]
        settings = load("demo", [f"home={tmp_path / 'home'}", *sets])
        location = builders.stream_location(settings)
        ensure_topic(location, PARTITIONS)
        sink = open_sink(location)
        course = Course(SEED, sink, tmp_path / "course.json")
        chaos = Chaos(SEED, nodes, broker, course, tmp_path / "spools")
        system = System("demo", tmp_path / "home", sets)
        try:
            system.start(400)
            course.note("started")
            watch = Watch(lambda: ask(system, "/v1/status"), nodes.family)
            clients = Clients(system.url, [*DOMAINS, "base"])
            with watch, clients:
                began = _attack_for(60 * MINUTES, chaos, course, lambda attacks: _has_resumed(watch, attacks))
                ended = time.monotonic()
                course.note("no more attacks")
                course.end()
                ends_exact(system, course, settings, 400, all_versions=False)
                course.note("exact")
            result = _result(chaos, watch, clients.requests, began, ended)
            Path(RESULT or tmp_path / "chaos.json").write_text(json.dumps(result, indent=1) + "\n")
            system.stop()
            done = run("home", "check", str(tmp_path / "home"), timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
            predicts_as_batch_ridge(settings, course)
        except BaseException as error:
            error.add_note(f"seed {SEED}, course, by seconds: {course.steps}\n{report(system, course)}")
            raise
        finally:
            sink.close()
            system.stop()
    assert result["learning"]["longest_seconds"] <= RESUMES_S, result["learning"]
    assert not result["requests"]["unexplained"], result["requests"]
    if 60 * MINUTES >= LONG_ENOUGH_S:
        assert result["memory"]["growth"] <= MOST_GROWTH, result["memory"]


def _attack_for(seconds: float, chaos: Chaos, course: Course, has_resumed: Callable[[Sequence[Attack]], bool]) -> float:
    """Send records all the while, and attack; returns when it began, once learning has come on after the last one."""
    over = threading.Event()

    def send_on() -> None:
        while not over.is_set():
            course.send()
            over.wait(SEND_EVERY_S)

    sender = threading.Thread(target=send_on, name="sender", daemon=True)
    sender.start()
    try:
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            time.sleep(chaos.pause())
            chaos.attack()
        return began
    finally:
        # The last attack has its time too.
        deadline = time.monotonic() + RESUMES_S
        while time.monotonic() < deadline and not has_resumed(chaos.attacks):
            time.sleep(1.0)
        over.set()
        sender.join(120)


def _has_resumed(watch: Watch, attacks: Sequence[Attack]) -> bool:
    return all(watch.seconds_until_learned(each.began, each.sent) is not None for each in attacks)


# -- what was seen ----------------------------------------------------------------------------------------------------


def _result(chaos: Chaos, watch: Watch, requests: list[Request], began: float, ended: float) -> dict[str, Any]:
    learned = [watch.seconds_until_learned(each.began, each.sent) for each in chaos.attacks]
    failed = [each for each in requests if each.outcome == "failed"]
    refused = [each for each in requests if each.outcome == "refused"]
    hits = [each for each in chaos.attacks if each.hits_replicas]
    quarters = watch.quarters(began + (ended - began) / 10, ended)
    return {
        "hardware": f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.machine()}",
        "seed": SEED,
        "minutes": round((ended - began) / 60, 1),
        "attacks": [
            _told(each, began, learned_seconds=after) for each, after in zip(chaos.attacks, learned, strict=True)
        ],
        "learning": {
            "publications": len(watch.publications),
            "longest_seconds": max((after if after is not None else 1e9 for after in learned), default=0.0),
        },
        "requests": {
            "all": len(requests),
            "refused": len(refused),
            "failed": [_told(each, began) for each in failed],
            "unexplained": [
                _told(each, began) for each in (*failed, *refused) if not any(_may_be_of(each, hit) for hit in hits)
            ],
        },
        "memory": {
            "gib": [round(sizes.total() / 2**30, 3) for _, sizes in watch.memory],
            "first_and_last_quarter_mib": {
                kind: [round(each / 2**20, 1) for each in sizes] for kind, sizes in quarters.items()
            },
            "growth": round(quarters["all"][1] / quarters["all"][0] - 1.0, 4),
        },
    }


def _told(each: Request | Attack, began: float, **more: Any) -> dict[str, Any]:
    """What is known of it, its times in seconds from the beginning."""
    return {name: round(value - began, 1) if name in TIMES else value for name, value in asdict(each).items()} | more


def _may_be_of(request: Request, attack: Attack) -> bool:
    """Whether a request was in flight when a replica was attacked, or came while that was away."""
    return request.began <= attack.ended + 30 and request.ended >= attack.began
