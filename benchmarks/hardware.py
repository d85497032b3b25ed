"""Names the machine that a figure was measured on: kind of processor, cores, threads, versions. No host, no path."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


PACKAGES = ("ray", "torch", "transformers", "peft", "vllm", "kafka-python", "msgpack", "pydantic")
"""What a run of the whole system rests on; give `describe` others where fewer take part."""


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, GPUs, thread limits that are set, load, and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": _gpus(),
        "threads": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(packages),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Installed version of each package, None where it is absent; a CPU build under a name of its own counts."""
    return {package: _version(package) or _version(f"{package}-cpu") for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lists; asking torch would cost its import."""
    found = Path("/proc/driver/nvidia/gpus").glob("*/information")
    lines = [line for file in sorted(found) for line in file.read_text().splitlines()]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
