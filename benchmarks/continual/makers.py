"""Makers of the benchmark's own methods and of the growing gate, as `benchmarks.continual.kinds` wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.continual.baselines import OPTIONS, baseline
from benchmarks.continual.growing_gate import GrowingGate, GrowingGateOptions
from benchmarks.continual.method import ContinualMethod
from benchmarks.continual.router import TaskRouter
from benchmarks.continual.workbench import Workbench
from cluster.errors import ClusterError


def of_baseline(
    workbench: Workbench, label: str, settings: Mapping[str, Any], seed: int, folder: Path
) -> ContinualMethod:
    """One of `benchmarks.continual.baselines`, on the workbench's base; it keeps nothing in `folder`."""
    options = workbench.options(OPTIONS[str(settings["kind"])], settings)
    return baseline(workbench.model, workbench.template, options, seed, label)


def growing(label: str, settings: Mapping[str, Any], seed: int) -> TaskRouter:
    """A learned gate that grows."""
    try:
        return GrowingGate(GrowingGateOptions.model_validate({"seed": seed, **settings}), label)
    except ValidationError as error:
        first = error.errors()[0]
        raise ClusterError(f"settings of {label}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
