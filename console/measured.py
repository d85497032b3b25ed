"""What a run of the demo saw, from feeding to the last answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.evaluation import Accuracy
from serving.api import SystemStatus


@dataclass
class Measured:
    """What the demo saw; `matrix[t][i]` is the exact match on domain i after domain t was learned, or None."""

    domains: list[str]
    base: dict[str, Accuracy] = field(default_factory=dict)
    matrix: list[list[float | None]] = field(default_factory=list)
    routed_to: dict[str, dict[str, int]] = field(default_factory=dict)
    routed: dict[str, Accuracy] = field(default_factory=dict)
    oracle: dict[str, Accuracy] = field(default_factory=dict)
    seconds_to_first_routed_answer: dict[str, float] = field(default_factory=dict)
    records_fed: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    failed_requests: int = 0
    manifests_seen: int = 0
    late_matrix_answers: int = 0
    """Answers in the matrix that the next domain's manifest gave already."""
    seconds: float = 0.0
    status: SystemStatus | None = None
