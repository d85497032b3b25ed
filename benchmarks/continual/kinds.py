"""The kinds of method that the benchmark knows by name, each with what makes it. Imports none before it is asked for.

A further one is a module beside this one and a line here; its maker takes the workbench, the label, the method's
settings, the seed and a folder of its own that does not outlive the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.continual.method import ContinualMethod
from benchmarks.continual.router import TaskRouter
from benchmarks.continual.workbench import Workbench
from cluster.errors import ClusterError
from learning.methods import OPTIONS

Maker = Callable[[Workbench, str, Mapping[str, Any], int, Path], ContinualMethod]
RouterMaker = Callable[[str, Mapping[str, Any], int], TaskRouter]

METHODS: dict[str, str] = {
    **{kind: "benchmarks.continual.learners:of_service" for kind in OPTIONS},
    **dict.fromkeys(("full", "low_rank_sequence", "sparse_seta"), "benchmarks.continual.makers:of_baseline"),
}
"""Maker by kind, as module:function. All kinds of the service are there."""
ROUTERS: dict[str, str] = {
    "analytic": "benchmarks.continual.routers:analytic",
    "lda": "benchmarks.continual.routers:lda",
    "joint_ridge": "benchmarks.continual.routers:joint_ridge",
    "centroid": "benchmarks.continual.routers:centroid",
    "growing": "benchmarks.continual.makers:growing",
    "linear": "benchmarks.continual.linear_gate:linear",
    "linear_joint": "benchmarks.continual.linear_gate:linear_joint",
}
"""Maker by kind of router."""


def method(
    kind: str, workbench: Workbench, label: str, settings: Mapping[str, Any], seed: int, folder: Path
) -> ContinualMethod:
    """A new method of a kind. Raises `ClusterError` for one that is not there."""
    maker: Maker = _maker(METHODS, kind, "method")
    return maker(workbench, label, settings, seed, folder)


def router(kind: str, label: str, settings: Mapping[str, Any], seed: int) -> TaskRouter:
    """A new router of a kind. Raises `ClusterError` for one that is not there."""
    maker: RouterMaker = _maker(ROUTERS, kind, "router")
    return maker(label, settings, seed)


def _maker(kinds: Mapping[str, str], kind: str, what: str) -> Any:
    if kind not in kinds:
        raise ClusterError(f"{what} kind {kind!r}: expected one of {sorted(kinds)}")
    module, name = kinds[kind].split(":")
    return getattr(importlib.import_module(module), name)
