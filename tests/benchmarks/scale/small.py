"""Constants of round numbers, and a cluster so small that a run takes a blink."""

from __future__ import annotations

from typing import Any

from benchmarks.scale.costs import Assumptions
from benchmarks.scale.model import Scenario

CONSTANTS: dict[str, Any] = {
    "block_rows": 100,
    "record": {"bytes": 300, "decode": 5e-6, "spool": 3e-6, "read": 2e-6},
    "ledger": {"fates": 1e-6, "apply": 1e-6},
    "router": {
        "64": {
            "observe": 1e-4,
            "merge": 0.01,
            "solve": {"10": 0.1, "100": 0.4},
            "score": {"10": 1e-6, "100": 1e-5},
            "decide": {"10": 1e-5, "100": 1e-4},
        }
    },
    "commit": {
        "10": {"seal": 0.01, "publish": 0.02, "manifest_read": 1e-3, "root_bytes": 1e4},
        "100": {"seal": 0.02, "publish": 0.04, "manifest_read": 2e-3, "root_bytes": 1e5},
    },
    "adapter": {"verify_a_byte": 1e-9},
    "directory": {"call": 1e-4, "wake": 1e-5, "largest": 20, "busy_at_the_largest": 0.003},
}
ASSUMED = Assumptions(steps=12)
"""A training takes 4.4 seconds."""
SCENARIO = Scenario(
    name="small",
    gpus=12,
    domains=10,
    records_s=2000.0,
    requests_s=50.0,
    replicas=6,
    learners=4,
    ingest_gpus=4,
    workers=12,
    router_cores=1,
    closing_rows=5000,
    dim=64,
    seconds=60.0,
)
