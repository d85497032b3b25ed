"""Publishing one more domain costs what is new of it, however many were learned before; so do a restart and a removal.

A home is filled with K domains, each of them observed, sealed and in service, through the real router over a real
registry; adapters are as small as PEFT folders can be, as they are written before a publication. Then, each in a
process of its own:

- publication: the router restarts, publishes one domain, and is measured at the next ones: bytes by what they are,
  seconds of the solve and of all beyond it, memory at its peak against what was held before; then a pin;
- restart: seconds until the router stands, and until it has published for the first time (the first total is had from
  groups then, so rows are read of what is not grouped only);
- removal: a domain leaves, its publication included; predictions are compared with a batch solve over the rows of all
  others, drawn anew and summed by plain numpy.

`tidy` is what runs when there is nothing else to do; what it writes is shared out over the domains. Run it with
`python -m benchmarks.ledger`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import scipy.linalg
from numpy.typing import NDArray

from actors.change import Change
from actors.observation import Observation, RowKey, example_digest
from actors.router import Router
from benchmarks.footprint import apart, footprint
from benchmarks.hardware import describe
from learning.generations import Generation
from learning.rls import RouterWeights, StreamingRidge
from learning.router_options import RouterOptions
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from learning.symmetric import Float64
from registry.adapters import Adapter, AdapterFacts
from registry.manifest import BaseRevision
from registry.registry import Registry
from streaming.source import TopicPartition

RESULT = Path(__file__).parent / "results" / "ledger.json"
HOME = "home"
RIDGE = 100.0
STREAM = TopicPartition("stream", 0)
_TIDY_EVERY = 10
_PRUNE_EVERY = 20
_PUBLICATIONS = 3
_REMOVED = 3
"""Number of the domain that is removed: one of the first, so that it is in a group."""
_MIB = 2**20


@dataclass(frozen=True)
class Size:
    """Features of each row, and rows of each domain."""

    dim: int
    rows: int


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, nargs="+", default=[10, 100, 1000], help="ascending")
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--work", type=Path, help="folder for the home, 16 bytes a feature of each row")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-ledger-", dir=options.work) as folder:
        result = measure(Path(folder), sorted(options.domains), Size(options.dim, options.rows))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, domains: list[int], size: Size) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("numpy", "scipy", "safetensors"))
    steps: list[dict[str, Any]] = []
    there = 0
    for count in domains:
        filled = apart(fill, folder, size, there, count)
        published = apart(publish, folder, size, count)
        there = count + published.pop("domains_more")
        steps.append({"domains": count, **published, "tidy": filled})
        print(json.dumps(steps[-1]), flush=True)
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "dim": size.dim,
        "rows_a_domain": size.rows,
        "row_bytes_a_domain": 8 * size.rows * size.dim,
        "publication": steps,
        "restart": apart(restart, folder, size, there),
        "removal": apart(remove, folder, size, there),
    }


# -- the phases, each in a process of its own -------------------------------------------------------------------------


def fill(folder: Path, size: Size, there: int, count: int) -> dict[str, Any]:
    """Bring a home that has `there` domains to `count`; returns what tidying has cost."""
    registry, router = _opened(folder)
    seconds, written = 0.0, 0
    for number in range(there, count):
        router.observe(observation(number, size))
        router.seal(_name(number), 1, {STREAM: (number + 1) * size.rows})
        if (number + 1) % _TIDY_EVERY == 0:
            started, before = time.perf_counter(), registry.segments.written
            router.tidy()
            seconds, written = seconds + time.perf_counter() - started, written + registry.segments.written - before
        if (number + 1) % _PRUNE_EVERY == 0:
            registry.prune(1, 1)
    # All rows are in, so that one solve serves all of them.
    for number in range(there, count):
        _put_in_service(router, registry, folder, number)
        if (number + 1) % _PRUNE_EVERY == 0:
            registry.prune(1, 1)
    registry.prune(1, 1)
    added = count - there
    return {
        "domains": added,
        "seconds_a_domain": round(seconds / added, 3),
        "bytes_written_a_domain": written // added,
        "of_its_rows": round(written / added / (8 * size.rows * size.dim), 3),
    }


def publish(folder: Path, size: Size, count: int) -> dict[str, Any]:
    """Publish further domains into a home of `count`, as a router that runs on does."""
    registry, router = _opened(folder)
    _feed(router, size, count)
    _put_in_service(router, registry, folder, count)
    publications = [_publication(router, registry, folder, size, count + 1 + each) for each in range(_PUBLICATIONS)]
    with footprint(folder / HOME) as pin:
        router.publish(Change("pinned", pins={_name(0): True}))
    router.publish(Change("free again", pins={_name(0): False}))
    registry.prune(1, 1)
    middle = sorted(publications, key=lambda each: float(each["seconds"]["in_all"]))[_PUBLICATIONS // 2]
    return {
        "domains_more": 1 + _PUBLICATIONS,
        **middle,
        "memory": max((each["memory"] for each in publications), key=lambda memory: float(memory["peak_of_resident"])),
        "seconds_in_all_of_each": [each["seconds"]["in_all"] for each in publications],
        "pin": {"seconds": round(pin.seconds, 3), "bytes_written": dict(sorted(pin.written.items()))},
    }


def _publication(router: Router, registry: Registry, folder: Path, size: Size, number: int) -> dict[str, Any]:
    observed = observation(number, size)
    adapter = stored_adapter(registry, folder, number)
    with footprint(folder / HOME) as all_of_it, watch() as seen:
        started = time.perf_counter()
        router.observe(observed)
        counted = time.perf_counter() - started
        with footprint(folder / HOME) as sealing:
            router.seal(adapter.domain, 1, {STREAM: (number + 1) * size.rows})
        with footprint(folder / HOME) as publishing:
            router.publish(Change("learned", puts={adapter.domain: adapter.name}))
    # The inner ones have begun the peak anew.
    peak = max(sealing.peak, publishing.peak)
    payload = 8 * size.rows * size.dim
    segments = sealing.written["segments"] + publishing.written["segments"]
    root = publishing.bytes_written - publishing.written["segments"] - publishing.written["routers"]
    return {
        "bytes_written": {
            "segments_of_the_domain": segments,
            "segments_of_its_rows": round(segments / payload, 4),
            "root_manifest_and_head": root,
            "root_and_head_of_the_seal_before": sealing.bytes_written - sealing.written["segments"],
            "weights": publishing.written["routers"],
        },
        "seconds": {
            "in_all": round(counted + sealing.seconds + publishing.seconds, 3),
            "observe": round(counted, 3),
            "seal": round(sealing.seconds, 3),
            "solve": round(seen.solving, 3),
            "publish_beyond_the_solve": round(publishing.seconds - seen.solving, 3),
            "all_beyond_the_solve": round(counted + sealing.seconds + publishing.seconds - seen.solving, 3),
        },
        "memory": {**_memory(all_of_it.resident, peak), "rows_read": seen.rows},
    }


def restart(folder: Path, size: Size, count: int) -> dict[str, Any]:
    """A router that starts on a home of `count` domains, until it stands and until it has published."""
    with footprint(folder / HOME) as standing, watch() as seen_standing:
        registry, router = _opened(folder)
    manifest = registry.current()
    if manifest is None:
        raise SystemExit(f"{folder} has no manifest: fill it first")
    with footprint(folder / HOME) as serving:
        ServedRouter.from_bytes(registry.weights(manifest))
    _feed(router, size, count)
    adapter = stored_adapter(registry, folder, count)
    with footprint(folder / HOME) as first, watch() as seen:
        router.publish(Change("learned", puts={adapter.domain: adapter.name}))
    return {
        "domains": count,
        "rows_in_the_home": count * size.rows,
        "until_the_router_stands": {
            "seconds": round(standing.seconds, 3),
            "mib_read": round(standing.read / _MIB),
            "rows_read": seen_standing.rows,
        },
        "weights_in_force_read": {"seconds": round(serving.seconds, 3), "mib_read": round(serving.read / _MIB)},
        "first_publication": {
            "seconds": round(first.seconds, 3),
            "mib_read": round(first.read / _MIB),
            "rows_read": seen.rows,
            "memory": _memory(first.resident, first.peak),
        },
    }


def remove(folder: Path, size: Size, count: int) -> dict[str, Any]:
    """Remove one domain of `count` + 1, and compare with what never saw it."""
    registry, router = _opened(folder)
    # A router that runs has its weights.
    _feed(router, size, count + 1)
    _put_in_service(router, registry, folder, count + 1)
    with footprint(folder / HOME) as removal, watch() as seen:
        manifest = router.publish(Change("removed", removes={_name(_REMOVED): 1}, fence=router.observed()))
    weights = ServedRouter.from_bytes(registry.weights(manifest)).weights
    del router
    left = [number for number in range(count + 2) if number != _REMOVED]
    expected = batch(left, size)
    if weights.domains != tuple(_name(number) for number in left):
        raise SystemExit(f"expected columns for {len(left)} domains, got {len(weights.domains)}")
    fresh_ND = np.concatenate([features(number, size, draw=1)[:8] for number in left[:: max(len(left) // 50, 1)]])
    found_NK, expected_NK = weights.scores(fresh_ND), fresh_ND @ expected
    return {
        "domains": count + 2,
        "seconds": round(removal.seconds, 3),
        "solve_with_the_total_summed": round(seen.solving, 3),
        "rows_read": seen.rows,
        "mib_read": round(removal.read / _MIB),
        "memory": _memory(removal.resident, removal.peak),
        "bytes_written": dict(sorted(removal.written.items())),
        "relative_difference_to_a_batch_solve_without_it": {
            "predictions": float(np.linalg.norm(found_NK - expected_NK) / np.linalg.norm(expected_NK)),
            "largest_prediction": float(np.abs(found_NK - expected_NK).max() / np.abs(expected_NK).max()),
            "prompts": len(fresh_ND),
        },
    }


# -- what they are made of --------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What happened inside the router while it was watched."""

    solving: float = 0.0
    """Seconds in `StreamingRidge.weights`."""
    rows: int = 0
    """Rows that were read from the store."""


@contextmanager
def watch() -> Iterator[Seen]:
    """Watch this process's routers at their solves and at their rows in the store."""
    seen = Seen()
    weights, body = StreamingRidge.weights, Generation.body

    def watched_weights(self: StreamingRidge, columns: Mapping[str, Sequence[str]] | None = None) -> RouterWeights:
        started = time.perf_counter()
        found = weights(self, columns)
        seen.solving += time.perf_counter() - started
        return found

    def watched_body(self: Generation, store: Any) -> Float64:
        seen.rows += self.count if self.form == "rows" else 0
        return body(self, store)

    StreamingRidge.weights, Generation.body = watched_weights, watched_body  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        StreamingRidge.weights, Generation.body = weights, body  # type: ignore[method-assign]


def features(number: int, size: Size, draw: int = 0) -> Float64:
    """Rows of a domain, [rows, dim], the same whenever they are asked for; another `draw` of it are other rows."""
    centre_D = np.random.default_rng([0, number]).standard_normal(size.dim, dtype=np.float32)
    noise_ND = np.random.default_rng([1 + draw, number]).standard_normal((size.rows, size.dim), dtype=np.float32)
    return np.maximum(noise_ND + 0.5 * centre_D, 0.0).astype(np.float64)


def observation(number: int, size: Size) -> Observation:
    """The whole of a domain as one block of the stream; domains follow each other there."""
    domain, start = _name(number), number * size.rows
    keys = tuple(
        RowKey(domain, example_digest(domain, str(place)), STREAM, start + place, False) for place in range(size.rows)
    )
    rows = Statistics.of(features(number, size), [domain] * size.rows, "benchmark")
    return Observation({STREAM: (start, start + size.rows)}, keys, statistics=rows)


def batch(numbers: list[int], size: Size) -> Float64:
    """Weights float64[d, k] of the textbook solve over all rows of these domains, by numpy and scipy alone."""
    gram_DD = RIDGE * np.eye(size.dim)
    target_DK = np.empty((size.dim, len(numbers)))
    for column, number in enumerate(numbers):
        rows_ND = features(number, size)
        gram_DD += rows_ND.T @ rows_ND
        target_DK[:, column] = rows_ND.sum(axis=0)
    found: Float64 = scipy.linalg.solve(gram_DD, target_DK, assume_a="pos", overwrite_a=True, overwrite_b=True)
    return found


def _opened(folder: Path) -> tuple[Registry, Router]:
    registry = Registry(folder / HOME, writer=True)
    base = BaseRevision(model="benchmark", digest="b" * 64)
    return registry, Router(registry, base, RouterOptions(ridge=RIDGE, background=False))


def _feed(router: Router, size: Size, number: int) -> None:
    router.observe(observation(number, size))
    router.seal(_name(number), 1, {STREAM: (number + 1) * size.rows})


def _put_in_service(router: Router, registry: Registry, folder: Path, number: int) -> None:
    adapter = stored_adapter(registry, folder, number)
    router.publish(Change("learned", puts={adapter.domain: adapter.name}))


def stored_adapter(registry: Registry, folder: Path, number: int, values: NDArray[np.float32] | None = None) -> Adapter:
    """A domain's adapter of one tensor, a few numbers unless `values` are given."""
    trained = folder / "trained"
    trained.mkdir(exist_ok=True)
    (trained / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    values = np.full((4, 8), number, dtype=np.float32) if values is None else values
    safetensors.numpy.save_file({"layers.0.lora_A.weight": values}, trained / "adapter_model.safetensors")
    facts = AdapterFacts(
        domain=_name(number),
        version=1,
        status="accepted",
        rank=4,
        base_digest="b" * 64,
        learner="none",
        train_examples=1,
        held_out_examples=1,
        created_at=datetime.now(UTC),
    )
    return registry.add_adapter(facts.domain, 1, trained, facts)


def _name(number: int) -> str:
    return f"domain-{number:05d}"


def _memory(before: int, peak: int) -> dict[str, Any]:
    return {
        "resident_before_mib": round(before / _MIB),
        "peak_mib": round(peak / _MIB),
        "peak_of_resident": round(peak / before, 3),
    }


if __name__ == "__main__":
    main()
