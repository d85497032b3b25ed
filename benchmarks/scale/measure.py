"""Measures on this machine what the product's own code costs, one piece at a time: the constants of `costs.py`.

Times are CPU seconds of this process with the thread limits that are set, so that what else the machine does hardly
counts; each is the least of some repetitions. Of a commit, which waits for the disk, seconds by the clock are taken.
Features are random: no cost here depends on their values. Does not know what the constants are used for.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.coverage import Span
from actors.directive import Standing
from actors.directory import ReplicaDirectory
from actors.ledger import Ledger
from actors.observation import Observation, RowKey, example_digest
from actors.packs import SpooledRow
from actors.spool import Spool
from actors.spool_file import delete_file
from benchmarks import ledger
from benchmarks.hardware import describe
from learning.abstention import Abstention
from learning.rls import StreamingRidge
from learning.router_weights import RouterWeights
from learning.served_router import ServedRouter
from registry.digests import DigestRuns
from registry.registry import Registry
from streaming.records import TaskRecord
from streaming.source import TopicPartition
from streaming.wire import decode, encode

DIMS = (1152, 2048, 4096)
"""Features: three layers' means of MiniLM and their expansion (`docs/routing.md`), between them the demo's."""
COLUMNS = (10, 100, 1000)
REPLICAS = (10, 30, 100)
MOST_REPLICAS = 300
BLOCK_ROWS = 256
POLL_RECORDS = 500
_FOLDS = 8
_WAIT_S = 2.0
_RIDGE = 100.0


def measure() -> dict[str, Any]:
    """All constants, JSON-able; each says in its key what it is for, in seconds unless it says otherwise."""
    hardware = describe(("numpy", "scipy", "pydantic"))
    with tempfile.TemporaryDirectory(prefix="anabranch-scale-") as folder:
        return {
            "hardware": hardware,
            "block_rows": BLOCK_ROWS,
            "poll_records": POLL_RECORDS,
            "record": record_costs(Path(folder)),
            "ledger": ledger_costs(),
            "router": {str(dim): router_costs(dim, COLUMNS) for dim in DIMS},
            "commit": commit_costs(Path(folder), COLUMNS),
            "adapter": adapter_costs(Path(folder)),
            "directory": directory_costs(REPLICAS, MOST_REPLICAS),
        }


def record_costs(folder: Path) -> dict[str, float]:
    """Of one record in an ingest worker: decoding, spooling in polls, reading back in blocks."""
    partition = TopicPartition("stream", 0)
    record = TaskRecord(id="t-1", domain="one", prompt="Lieferung bis 05. August 1967 " * 8, completion="1967-08-05")
    value, headers = encode(record)
    rows = [
        SpooledRow(partition, place, "one", f"t-{place}", False, record.prompt or "", record.completion)
        for place in range(POLL_RECORDS)
    ]

    def spooling() -> float:
        path = folder / "spool.sqlite"
        spool = Spool(path)
        try:
            return _cpu(lambda: spool.append(rows, [], [Span(partition, 0, POLL_RECORDS)]))
        finally:
            spool.close()
            delete_file(path)

    spool = Spool(folder / "read.sqlite")
    spool.append(rows, [], [Span(partition, 0, POLL_RECORDS)])
    read = _least(lambda: spool.recall(partition, 0, POLL_RECORDS, BLOCK_ROWS), 20) / BLOCK_ROWS
    spool.close()
    return {
        "bytes": len(value),
        "decode": _least(lambda: [decode(value, headers) for _ in rows]) / POLL_RECORDS,
        "spool": min(spooling() for _ in range(5)) / POLL_RECORDS,
        "read": read,
    }


def ledger_costs() -> dict[str, float]:
    """Of one row of a block: asking for its fate, which ingest and router each do, and counting it."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Ledger(DigestRuns.empty(Registry(Path(folder), writer=True).segments))
        partition, fates_s, apply_s = TopicPartition("stream", 0), [], []
        for block in range(40):
            start = block * BLOCK_ROWS
            keys = tuple(
                RowKey("one", example_digest("one", str(start + place)), partition, start + place, False)
                for place in range(BLOCK_ROWS)
            )
            observation = Observation({partition: (start, start + BLOCK_ROWS)}, keys)
            fates_s.append(_cpu(lambda: rows.fates(keys)))  # noqa: B023 - called at once
            fates = rows.fates(keys)
            apply_s.append(_cpu(lambda: rows.apply(observation, fates)))  # noqa: B023 - called at once
    return {"fates": float(np.median(fates_s)) / BLOCK_ROWS, "apply": float(np.median(apply_s)) / BLOCK_ROWS}


def router_costs(dim: int, columns: Sequence[int]) -> dict[str, Any]:
    """Of the sums at d features: a row into them, two of them into one, and by columns the solve and the scores."""
    rng = np.random.default_rng(0)
    block_ND = np.maximum(rng.standard_normal((BLOCK_ROWS, dim)), 0.0)
    router, other = StreamingRidge(dim, _RIDGE), StreamingRidge(dim, _RIDGE)
    # As sums, which is what a domain of more than d / 2 rows is.
    for _ in range((dim // 2) // BLOCK_ROWS + 4):
        for each in (router, other):
            each.observe(block_ND, ["one"] * BLOCK_ROWS)

    def observe() -> None:
        for _ in range(_FOLDS):
            router.observe(block_ND, ["one"] * BLOCK_ROWS)

    observing = _least(observe, 2)
    other.weights()
    found: dict[str, Any] = {
        "observe": observing / (_FOLDS * BLOCK_ROWS),
        "merge": _least(lambda: router.merge(other), 2),
        "solve": {},
        "score": {},
        "decide": {},
    }
    for count in columns:
        names = [f"domain-{place:05d}" for place in range(count)]
        one = {names[0]: ["one"], **{name: [name] for name in names[1:]}}
        for name in set(names[1:]) - set(router.domains):
            router.observe(block_ND[:1], [name])
        # So many rows that the matrix is factored anew; a copy is made of folded rows alone.
        observe()
        router.copy()
        found["solve"][str(count)] = _cpu(lambda: router.weights(one))  # noqa: B023 - called at once
        if router.derivation != "cholesky":
            raise SystemExit(f"measuring a solve: expected cholesky, got {router.derivation}")
        weights = RouterWeights(tuple(names), rng.standard_normal((dim, count)), "benchmark")
        served = ServedRouter(weights, Abstention.calibrated("top", 0.95, weights, block_ND))
        found["score"][str(count)] = _least(lambda: weights.scores(block_ND)) / BLOCK_ROWS  # noqa: B023
        found["decide"][str(count)] = _least(lambda: served.decide(block_ND[:1]), 20)  # noqa: B023
    return found


def commit_costs(folder: Path, columns: Sequence[int]) -> dict[str, Any]:
    """Of a domain's publication but its solve, by domains in service; rows are few and small."""
    size, there, found = ledger.Size(dim=16, rows=4), 0, {}
    for count in columns:
        ledger.fill(folder, size, there, count)
        seconds = ledger.publish(folder, size, count)
        there = count + seconds["domains_more"]
        manifest = Registry(folder / ledger.HOME).current()
        number = manifest.number if manifest is not None else 0
        found[str(count)] = {
            "seal": seconds["seconds"]["seal"],
            "publish": seconds["seconds"]["publish_beyond_the_solve"],
            "manifest_read": _least(lambda: Registry(folder / ledger.HOME).manifest(number)),  # noqa: B023
            "root_bytes": seconds["bytes_written"]["root_manifest_and_head"],
        }
    return found


def adapter_costs(folder: Path) -> dict[str, float]:
    """Of a byte of an adapter that a replica checks before it loads it."""
    values = np.zeros((4, 1 << 20), dtype=np.float32)
    adapter = ledger.stored_adapter(Registry(folder / "adapters", writer=True), folder, 0, values)
    return {"verify_a_byte": _least(adapter.verify) / values.nbytes}


def directory_costs(replicas: Sequence[int], largest: int) -> dict[str, Any]:
    """Of one `next_directive`, by itself and for each member that it wakes; and what share of a core so many replicas
    keep busy, who then come in bunches, as one wake may answer many."""
    seconds = {count: asyncio.run(_held(count))[0] for count in replicas}
    wake, call = np.polyfit(list(seconds), list(seconds.values()), 1)
    return {
        "call": float(call),
        "wake": float(wake),
        "seconds_a_call": {str(count): each for count, each in seconds.items()},
        "largest": largest,
        "busy_at_the_largest": asyncio.run(_held(largest))[1],
    }


async def _held(replicas: int) -> tuple[float, float]:
    """CPU seconds a call, and of each second, at a directory where so many replicas hold a call each."""
    directory, standing, calls = ReplicaDirectory(lambda: 1), Standing(serves=1), 0

    async def replica(place: int) -> None:
        nonlocal calls
        # Spread over one wait, as replicas start at any time.
        await asyncio.sleep(_WAIT_S * place / replicas)
        while True:
            await directory.next_directive(f"replica-{place}", standing, _WAIT_S)
            calls += 1

    tasks = [asyncio.create_task(replica(place)) for place in range(replicas)]
    await asyncio.sleep(2 * _WAIT_S)
    before, cpu, clock = calls, time.process_time(), time.monotonic()
    await asyncio.sleep(2 * _WAIT_S)
    seconds, passed, made = time.process_time() - cpu, time.monotonic() - clock, calls - before
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seconds / made, seconds / passed


def _cpu(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def _least(call: Callable[[], object], times: int = 5) -> float:
    return min(_cpu(call) for _ in range(times))
