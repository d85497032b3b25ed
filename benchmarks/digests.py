"""Ten million settled digests: what they cost in memory, at a start, at a lookup, at a publication, at a merge.

A `DigestRuns` of one domain is filled in two runs of half each; one process merges them, another restores the outcome.
Memory a digest is what that process grows by, shared out over the digests. A hundred million are extrapolated, not
measured: memory and start grow with the digests. Run it with `python -m benchmarks.digests`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from benchmarks.footprint import apart, footprint, resident
from benchmarks.hardware import describe
from registry.digests import DIGEST_BYTES, DigestRuns
from registry.registry import Registry

RESULT = Path(__file__).parent / "results" / "digests.json"
_ASKED = 2_000


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digests", type=int, default=10_000_000)
    parser.add_argument("--rows", type=int, default=300, help="digests that one publication settles")
    parser.add_argument("--work", type=Path, help="folder for the files, about 40 bytes a digest")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-digests-", dir=options.work) as folder:
        result = measure(Path(folder), options.digests, options.rows)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, count: int, rows: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("numpy", "safetensors"))
    halves = apart(fill, folder, count)["names"]
    merged = apart(merge, folder, halves, count)
    restored = apart(restore, folder, merged.pop("names"), count, rows)
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "digests": count,
        **restored,
        **merged,
        "extrapolated_to_100_million": {
            "memory_mib": round(100e6 * restored["memory_bytes_a_digest"] / 2**20),
            "start_seconds": round(100e6 / count * restored["start_seconds"], 2),
        },
    }


def fill(folder: Path, count: int) -> dict[str, Any]:
    """Two runs of half the digests each, as names of files."""
    runs = DigestRuns.empty(Registry(folder).segments)
    for first, end in ((0, count // 2), (count // 2, count)):
        runs = runs.plus(digests(first, end))
    return {"names": runs.names}


def merge(folder: Path, names: tuple[str, ...], count: int) -> dict[str, Any]:
    """The largest merge that there is: both halves into one run."""
    runs = DigestRuns.restore(Registry(folder).segments, names)
    with footprint(folder) as found:
        runs = runs.merged()
    return {
        "names": runs.names,
        "merge_of_all": {
            "seconds": round(found.seconds, 2),
            "written_bytes_a_digest": round(found.bytes_written / count, 2),
            "memory_beyond_the_set_at_peak_mib": round((found.peak - found.resident) / 2**20),
        },
    }


def restore(folder: Path, names: tuple[str, ...], count: int, rows: int) -> dict[str, Any]:
    """What a router's process holds, and what it takes to look digests up and to settle one more publication's."""
    store = Registry(folder).segments
    # What the first call imports and opens is no memory of the digests.
    DigestRuns.restore(store, names[:1]).contains(digests(0, 10))
    with footprint(folder) as start:
        runs = DigestRuns.restore(store, names)
    held = resident() - start.resident
    asked = digests(0, count, step=max(count // _ASKED, 1))
    strangers = digests(count, count + len(asked))
    lookup = {
        "known_one_by_one": _microseconds(runs, asked, 1, expected=True),
        "known_300_at_once": _microseconds(runs, asked, 300, expected=True),
        "unknown_one_by_one": _microseconds(runs, strangers, 1, expected=False),
        "unknown_300_at_once": _microseconds(runs, strangers, 300, expected=False),
    }
    settled = digests(2 * count, 2 * count + rows)
    with footprint(folder) as publication:
        runs.plus(settled)
    return {
        "files": len(names),
        "disk_bytes_a_digest": round(sum(store.size(name) for name in names) / count, 2),
        "memory_bytes_a_digest": round(held / count, 3),
        "start_seconds": round(start.seconds, 3),
        "lookup_microseconds_a_digest": lookup,
        "publication_of_more": {
            "digests": rows,
            "seconds": round(publication.seconds, 4),
            "bytes_written": publication.bytes_written,
            "bytes_read": publication.read,
        },
    }


def digests(first: int, end: int, step: int = 1) -> list[bytes]:
    """The digests of these numbers, as good as those of examples."""
    return [blake2b(number.to_bytes(8, "big"), digest_size=DIGEST_BYTES).digest() for number in range(first, end, step)]


def _microseconds(runs: DigestRuns, asked: list[bytes], at_once: int, *, expected: bool) -> float:
    found: list[bool] = []
    started = time.perf_counter()
    for first in range(0, len(asked), at_once):
        found += runs.contains(asked[first : first + at_once])
    seconds = time.perf_counter() - started
    if found != [expected] * len(asked):
        raise SystemExit(f"expected all of {len(asked)} digests to be found {expected}, got {found.count(expected)}")
    return round(1e6 * seconds / len(asked), 1)


if __name__ == "__main__":
    main()
