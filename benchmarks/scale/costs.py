"""What each piece of work costs: measured constants of the product's own code, and assumptions where none can be had.

`MeasuredCosts` reads what `measure.py` wrote: seconds of one core of the machine that the file names. `Assumptions` are
the rest, above all GPUs and links, each with where it comes from. Nothing here knows of queues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONSTANTS = Path(__file__).parents[1] / "results" / "scale" / "constants.json"
_FLOAT64 = 8
_FLOAT32 = 4


@dataclass(frozen=True)
class Assumptions:
    """What was not measured on this machine. The base is Qwen2.5-7B, as in the preset `cluster`."""

    call_s: float = 1 / 4260
    """Seconds that one call keeps an asynchronous Ray actor busy: Ray's own release benchmark counts 4,260 calls a
    second (ray-project/ray, release/perf_metrics/microbenchmark.json, 1_1_async_actor_calls_async)."""
    link_bytes_s: float = 25e9 / 8
    """Bytes a second into one node: an assumed network card of 25 Gbit/s."""
    storage_bytes_s: float = 1e10
    """Bytes a second that the registry's storage gives to all its readers together: assumed, of a shared filesystem."""
    flop_s: float = 4e14
    """Useful flop a second of one GPU: assumed, two fifths of the 989 Tflop/s (bf16, dense) of an H100's data sheet."""
    row_tokens: int = 200
    """Tokens of a training example and of a prompt: assumed."""
    layers: int = 28
    """Decoder layers of the base: its config.json, as the four figures that follow."""
    parameters: float = 7.6e9
    hidden: int = 3584
    keys: int = 512
    """Width of keys and of values, all heads together."""
    inner: int = 18944
    frozen_layers: int = 4
    """Lowest layers, which adapters leave alone and whose outputs are the router's features: preset `cluster`."""
    rank: int = 16
    """Of the adapters: preset `cluster`."""
    steps: int = 120
    """Optimiser steps of a training: as in `benchmarks/results/real.json`."""
    batch: int = 16
    """Rows of a step: preset `cluster`."""
    tokens_s: float = 2500.0
    """Tokens a second that one replica generates for all its requests: assumed."""
    token_s: float = 0.015
    """Seconds from one token of an answer to the next: assumed."""
    answer_tokens: int = 64
    """Tokens of an answer: assumed."""
    adapter_slots: int = 128
    """Adapters that a replica holds in memory (`serving.max_cpu_loras`): preset `cluster`."""
    heartbeat_s: float = 2.0
    """For how long a replica's call waits at the directory when there is nothing to do: `actors/replica.py`."""

    @property
    def adapter_bytes(self) -> float:
        """Of one version: rank times inputs and outputs of seven modules in each layer above the frozen ones."""
        widths = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.keys) + 3 * (self.hidden + self.inner)
        return float(_FLOAT32 * self.rank * widths * (self.layers - self.frozen_layers))

    @property
    def feature_s(self) -> float:
        """GPU seconds of one row's features: 2 flop a parameter and token, in the frozen layers alone."""
        share = self.frozen_layers / self.layers
        return 2 * self.parameters * share * self.row_tokens / self.flop_s

    @property
    def train_s(self) -> float:
        """GPU seconds of one training: 6 flop a parameter and token (forward, backward to the activations, and the
        forward again for checkpointing)."""
        return 6 * self.parameters * self.row_tokens * self.steps * self.batch / self.flop_s


class MeasuredCosts:
    """The constants at d features and K columns, as functions of what they grow with; in between and beyond, linear."""

    def __init__(self, constants: Mapping[str, Any], dim: int, columns: int) -> None:
        if str(dim) not in constants["router"]:
            raise SystemExit(f"constants at d = {dim}: there are {sorted(constants['router'], key=int)}; measure them")
        router, ledger, record = constants["router"][str(dim)], constants["ledger"], constants["record"]
        commits = constants["commit"]
        self.dim, self.columns = dim, columns
        self.block_rows: int = constants["block_rows"]
        self.directive_s: float = constants["directory"]["call"]
        """CPU seconds of one `next_directive` at the directory, but for those whom it wakes."""
        self.wake_s: float = constants["directory"]["wake"]
        """CPU seconds of waking one member of the directory."""
        self.record_s: float = record["decode"] + record["spool"] + record["read"]
        """CPU seconds of an ingest worker for one record, but for its features and its sums."""
        self.record_bytes: int = record["bytes"]
        self.fates_s: float = ledger["fates"]
        """CPU seconds of asking what becomes of one row."""
        self.apply_s: float = ledger["apply"]
        """CPU seconds of counting one row in the ledger."""
        self.observe_s: float = router["observe"]
        """CPU seconds of adding one row to the total and to its domain's sums, both d x d."""
        self.merge_s: float = router["merge"]
        """CPU seconds of adding one shard's sums to another's."""
        self.solve_s = linear(router["solve"], columns)
        """CPU seconds of factoring the sums anew and solving for all columns."""
        self.score_s = linear(router["score"], columns)
        """CPU seconds of the scores of one row of a block, for prequential accuracy."""
        self.decide_s = linear(router["decide"], columns)
        """CPU seconds of a replica for routing one prompt, but for its features."""
        self.seal_s = linear({key: each["seal"] for key, each in commits.items()}, columns)
        """Seconds by the clock of the commit that seals a domain."""
        self.publish_s = linear({key: each["publish"] for key, each in commits.items()}, columns)
        """Seconds by the clock of the commit that publishes, beyond the solve."""
        self.manifest_s = linear({key: each["manifest_read"] for key, each in commits.items()}, columns)
        """CPU seconds of a replica for reading a manifest."""
        self.root_bytes = linear({key: each["root_bytes"] for key, each in commits.items()}, columns)
        """Bytes of root, manifest and head of a publication."""
        self.verify_byte_s: float = constants["adapter"]["verify_a_byte"]
        """CPU seconds of a replica for checking one byte of what it loads."""

    @property
    def row_bytes(self) -> int:
        """One row's features on the way to the router."""
        return _FLOAT64 * self.dim

    @property
    def sums_bytes(self) -> int:
        """The packed sums of one label or shard."""
        return _FLOAT64 * self.dim * (self.dim + 1) // 2

    @property
    def weights_bytes(self) -> int:
        """The router of one publication, abstention by the top score."""
        return _FLOAT64 * self.dim * self.columns


def load(path: Path = CONSTANTS) -> dict[str, Any]:
    """The committed constants."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def linear(table: Mapping[str, float], at: float) -> float:
    """Between the points of a table on straight lines; beyond them on the last line, and never below 0."""
    places = np.array(sorted(map(float, table)))
    values = np.array([table[str(int(place))] for place in places])
    if len(places) == 1:
        return float(values[0])
    first = int(np.clip(np.searchsorted(places, at) - 1, 0, len(places) - 2))
    slope = (values[first + 1] - values[first]) / (places[first + 1] - places[first])
    return float(max(values[first] + slope * (at - places[first]), 0.0))
