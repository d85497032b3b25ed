"""Kafka ingest without features, in records a CPU second, against a bare kafka-python consumer that only polls.

The path is a worker's own: `Ingest` with both loops, from a topic of a real Apache Kafka to the router's receipts. It
polls, decodes, renders by the template, spools durably with the offsets covered, reads blocks back, and submits keys,
digests and spans to a real `Router`. Features are one number a row, so that nothing of them counts; what the router
itself takes is measured and left out, since it is another process in a system.

- bare: `KafkaConsumer.poll`, nothing else. All figures are ratios to it.
- exactly once: the worker, with either client.
- at least once: the same source, decoding and spool without what makes it exact: no `start_at` but the group's offsets,
  committed after each poll; no identity of the log; no coverage; no digests, fates or spans: sums are made of the rows
  as one thread hands them to the other, in blocks of the same size.

Each run is a process of its own: the processor time of all its threads, from the first records that came to the last
ones that were counted. What the process has imported is kept from the garbage collector in all of them: to look through
it once takes as long as thousands of records, and would fall on some run or other. Rounds are interleaved; a ratio is
the median over rounds, each taken within its round. Run it with `python -m benchmarks.ingest`; it needs Apache Kafka
(`KAFKA_HOME`).
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any
from uuid import uuid4

import numpy as np

import examples
from actors.decoding import Decoding
from actors.ingest import Ingest
from actors.observation import Receipt
from actors.packs import SpooledRow
from actors.router import Router
from actors.spool import Spool
from benchmarks.hardware import describe
from cluster import builders
from configs.loader import load
from learning.router_options import RouterOptions
from learning.statistics import Statistics
from learning.symmetric import Float64
from registry.manifest import BaseRevision
from registry.registry import Registry
from streaming.broker import ApacheKafkaBroker, kafka_home
from streaming.kafka import KafkaSource
from streaming.kafka_options import CLIENTS, KafkaOptions
from streaming.location import StreamLocation, ensure_topic, open_sink, open_source
from streaming.records import TaskRecord, read_jsonl
from streaming.source import RecordSource, StartAt, from_beginning, from_committed
from streaming.wire import ContentType, encode

RESULT = Path(__file__).parent / "results" / "ingest.json"
TOPIC = "ingest"
PARTITIONS = 4
_PATIENCE_S = 300.0
# Each run is a process of its own, forked from one that has imported what takes seconds to import.
_forking = get_context("forkserver")
_forking.set_forkserver_preload(["actors.ingest", "actors.router", "configs.loader", "streaming.location"])
_STREAM = Path(next(iter(examples.__path__))) / "stream"


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for the broker's log, the spools and the homes")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-ingest-", dir=options.work) as folder:
        result = measure(Path(folder), options.records, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, records: int, rounds: int) -> dict[str, Any]:
    """All figures of one benchmark, as they go into the result file."""
    home = kafka_home()
    if home is None:
        raise SystemExit("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    hardware = describe(("kafka-python", "confluent-kafka", "msgspec", "pydantic", "crc32c"))
    found: dict[str, Any] = {}
    with ApacheKafkaBroker(home, folder / "broker") as broker:
        for kind in ("application/json", "application/msgpack"):
            location = StreamLocation("kafka", f"{TOPIC}-{kind[12:]}", bootstrap=broker.bootstrap)
            size = fill(location, records, kind)
            found[kind] = {"bytes_a_record": size, **_compared(folder, str(location), records, rounds)}
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "records": records,
        "partitions": PARTITIONS,
        "rounds": rounds,
        **found,
    }


def _compared(folder: Path, location: str, records: int, rounds: int) -> dict[str, Any]:
    """Interleaved rounds over one topic."""
    works: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {"bare kafka-python": (bare, "kafka-python")}
    for client in CLIENTS:
        works[f"exactly once, {client}"] = (exactly_once, client)
        works[f"at least once, {client}"] = (at_least_once, client)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, client) in works.items():
            with ProcessPoolExecutor(1, mp_context=_forking, initializer=_set_imports_aside) as pool:
                runs[name].append(pool.submit(work, folder, location, records, client).result())
            print(name, runs[name][-1], flush=True)
    rates = {name: [run["records_a_cpu_second"] for run in some] for name, some in runs.items()}
    base = rates["bare kafka-python"]
    return {
        "records_a_cpu_second": {name: round(median(some)) for name, some in rates.items()},
        "of_the_bare_consumer": {name: _ratio(some, base) for name, some in rates.items()},
        "exactly_of_at_least_once": {
            client: _ratio(rates[f"exactly once, {client}"], rates[f"at least once, {client}"]) for client in CLIENTS
        },
        "router_cpu_us_a_record": round(
            median(run["router_cpu_us_a_record"] for run in runs[f"exactly once, {CLIENTS[0]}"]), 2
        ),
        "runs": rates,
    }


def _ratio(some: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    ratios = sorted(one / other for one, other in zip(some, base, strict=True))
    return {"median": round(median(ratios), 3), "least": round(ratios[0], 3), "most": round(ratios[-1], 3)}


def _set_imports_aside() -> None:
    gc.collect()
    gc.freeze()


# -- the works, each in a process of its own --------------------------------------------------------------------------


def bare(_folder: Path, location: str, records: int, _client: str) -> dict[str, Any]:
    """Poll, and count."""
    settings, where = load("demo"), StreamLocation.parse(location)
    source = KafkaSource(KafkaOptions(where.bootstrap or ""), where.topic, group=None, start_at=from_beginning)
    try:
        clock = _Clock()
        while not clock.counted:
            clock.count(len(source.poll(0.5, settings.ingest.poll_records)))
        # From here on the library alone.
        while clock.counted < records:
            clock.count(sum(map(len, source._consumer.poll(500, settings.ingest.poll_records).values())))
        return clock.figures()
    finally:
        source.close()


def exactly_once(folder: Path, location: str, records: int, client: str) -> dict[str, Any]:
    """The worker as it is, over a home and a spool of its own."""
    settings, home = load("demo"), folder / uuid4().hex
    router = _Timed(
        Router(
            Registry(home, writer=True),
            BaseRevision(model="benchmark", digest="b" * 64),
            RouterOptions(background=False),
        )
    )
    ingest = Ingest(
        lambda start_at: _source(location, client, start_at),
        None,  # type: ignore[arg-type] # There is no dead letter among these records: one would end the run.
        Spool(home / "spool.sqlite"),
        _NoFeatures(),  # type: ignore[arg-type]
        builders.template(settings),
        router,
        builders.ingest_options(settings),
    )
    clock = _Clock(lambda: router.cpu_s)
    ingest.start()
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while router.counted < records:
            if time.monotonic() > deadline or any(loop.trouble for loop in ingest._loops):
                raise SystemExit(f"{router.counted} of {records} records: {ingest.report().trouble}")
            if not clock.counted and ingest._counters["polled"]:
                clock.count(ingest._counters["polled"])
            time.sleep(0.02)
        clock.count(records - clock.counted)
        return {**clock.figures(), "router_cpu_us_a_record": 1e6 * router.cpu_s / records}
    finally:
        ingest.stop()


def at_least_once(folder: Path, location: str, records: int, client: str) -> dict[str, Any]:
    """What a consumer of the common kind does with the same parts, in two threads as well."""
    settings = load("demo")
    options = builders.ingest_options(settings)
    decoding = Decoding(builders.template(settings), options.max_record_bytes, options.held_out_fraction)
    spool = Spool(folder / uuid4().hex / "spool.sqlite")
    source: Any = _source(location, client, from_committed)
    source._identity = None  # Of the log: then it is not asked for.
    clock = _Clock()
    handed: SimpleQueue[list[SpooledRow]] = SimpleQueue()
    read_by: Counter[str] = Counter()

    def read() -> None:
        """Rows that were spooled, in blocks as the worker reads them."""
        while rows := handed.get():
            for at in range(0, len(rows), options.block_rows):
                block = rows[at : at + options.block_rows]
                features = _NoFeatures().extract([row.prompt for row in block])
                Statistics.of(features, [row.domain for row in block], _NoFeatures.fingerprint)
                read_by.update([row.domain for row in block])

    reader = threading.Thread(target=read)
    reader.start()
    try:
        polled = 0
        while polled < records:
            if envelopes := source.poll(0.2, options.poll_records):
                rows, markers, letters = decoding.decode(envelopes)
                if letters:
                    raise SystemExit(f"dead letters: {letters[0]}")
                spool.append(rows, markers, [])
                handed.put(rows)
                source.commit({envelope.topic_partition: envelope.offset + 1 for envelope in envelopes})
                polled += len(envelopes)
                if not clock.counted:
                    clock.count(polled)
        handed.put([])
        reader.join(_PATIENCE_S)
        clock.count(sum(read_by.values()) - clock.counted)
        return clock.figures()
    finally:
        handed.put([])
        source.close()
        spool.close()


# -- what they are made of --------------------------------------------------------------------------------------------


class _Clock:
    """Processor time of this process from the first records on, less what `aside` says was another's."""

    def __init__(self, aside: Callable[[], float] = lambda: 0.0) -> None:
        self.counted = 0
        self._aside, self._began, self._first, self._took = aside, 0.0, 0, 0.0

    def count(self, records: int) -> None:
        """Count records that have just come."""
        now = time.process_time() - self._aside()
        if records and not self.counted:
            self._began, self._first = now, records
        self.counted += records
        self._took = now - self._began

    def figures(self) -> dict[str, Any]:
        """The rate over all but the first of them."""
        return {"records_a_cpu_second": (self.counted - self._first) / self._took}


class _NoFeatures:
    """One number a row."""

    fingerprint = "none"

    def extract(self, prompts: Sequence[str]) -> Float64:
        return np.ones((len(prompts), 1))


class _Timed:
    """A router, and the processor time of the threads that were in it."""

    def __init__(self, router: Router) -> None:
        self._router, self.cpu_s, self.counted = router, 0.0, 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._router, name)

        def timed(*arguments: Any) -> Any:
            began = time.thread_time()
            answer = method(*arguments)
            self.cpu_s += time.thread_time() - began
            if isinstance(answer, Receipt) and answer.applied:
                self.counted += len(arguments[0].rows)
            return answer

        return timed


def fill(location: StreamLocation, count: int, kind: ContentType) -> float:
    """Write the demo's records over and over, each under an id of its own; returns their mean size in bytes."""
    ensure_topic(location, PARTITIONS)
    sink, size = open_sink(location), 0
    for record in _records(count):
        value, headers = encode(record, kind)
        sink.append_raw(value, headers, record.id.encode())
        size += len(value)
    sink.close()
    return round(size / count, 1)


def _records(count: int) -> Iterator[TaskRecord]:
    domains = [list(read_jsonl(file)) for file in sorted(_STREAM.glob("*.train.jsonl"))]
    mixed = [record for some in zip(*domains, strict=True) for record in some if isinstance(record, TaskRecord)]
    for number, record in enumerate(islice(cycle(mixed), count)):
        yield record.model_copy(update={"id": f"{record.id}-{number:07d}"})


def _source(location: str, client: str, start_at: StartAt) -> RecordSource:
    where = StreamLocation.parse(location)
    options = KafkaOptions(where.bootstrap or "", client=client)
    return open_source(where, group=uuid4().hex, start_at=start_at, options=options)


if __name__ == "__main__":
    main()
