"""The command that says what is missing on this machine for a configuration, and what to do about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from console.completion import presets
from console.terminal import AsJson, Sets, one_line, out

if TYPE_CHECKING:
    from configs.settings import Settings
    from console.machine import Finding

_BROKER_MS = 5_000
"""How long a broker may take to answer."""
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red"}

Check = tuple[str, Callable[[], "Finding"]]


def doctor(
    config: Annotated[str, typer.Argument(autocompletion=presets, help="Preset or YAML file.")] = "demo",
    set_: Sets = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Say what is missing on this machine for a configuration, and what to do; exit code 1 if something is.

    Nothing is started or changed. Of what can't be checked the reason is told.
    """
    with one_line():
        from configs.loader import load

        findings = []
        for check in checks(load(config, list(set_))):
            found = _found(*check)
            findings.append(found)
            if not as_json:
                state = (f"{found.state:8}", _STYLES[found.state])
                remedy = f"; {found.remedy}" if found.remedy else ""
                out.print(Text.assemble(state, f"{found.check}: {found.says}{remedy}"), soft_wrap=True)
        if as_json:
            print(json.dumps([dataclasses.asdict(found) for found in findings]))
        if any(found.state == "failed" for found in findings):
            raise typer.Exit(1)


def checks(settings: Settings) -> Iterator[Check]:
    """What is checked, in order: the machine, then what the settings name."""
    from configs.memory_sum import uses_gpus
    from console import machine

    gpus = uses_gpus(settings)
    yield "python", machine.python
    yield "packages", machine.packages
    yield "engine", partial(machine.engine, gpus=gpus)
    yield "haproxy", machine.proxy
    yield "base model", partial(_base, settings)
    if gpus:
        yield "gpu", partial(_gpus, settings)
    else:
        yield "memory", lambda: machine.memory(_needed(settings))
    yield "shared memory", machine.shared_memory
    yield "open files", machine.open_files
    yield "disk", partial(machine.disk, settings.home)
    yield "registry", partial(_registry, settings)
    yield "stream", partial(_stream, settings)
    yield "port", partial(_port, settings)
    yield "browser", machine.browser


def _found(check: str, find: Callable[[], Finding]) -> Finding:
    from console.machine import Finding

    try:
        return find()
    except ImportError as error:
        return Finding(check, "failed", f"can't be checked: {_words(error)}", "see packages above")
    except Exception as error:  # One check that fails must not hide what the others find.
        return Finding(check, "failed", _words(error))


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _folder(model: str) -> Path | None:
    """The folder of a model that is on this machine; None for one that the hub would be asked for."""
    from learning.catalogue import located

    folder = Path(located(model))
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _base(settings: Settings) -> Finding:
    """The base, and another model for features: there, of a kind that is taken, every file readable to its end."""
    from configs.checks import check_paths
    from console.machine import Finding
    from learning.architecture import check_supported, read_config
    from learning.checkpoint import weight_files

    check_paths(settings)
    away, size = [], 0
    for key, model in (("base.model", settings.base.model), ("features.model", settings.features.model)):
        if model is None:
            continue
        folder = _folder(model)
        if folder is None:
            away.append(model)
            continue
        if key == "base.model":
            check_supported(read_config(folder), f"{key} {model}")
        size += sum(_whole(file) for file in weight_files(folder))
    if away:
        remedy = "the first start fetches it from the hub; offline, give a folder"
        return Finding("base model", "warning", f"{', '.join(away)} is not on this machine", remedy)
    if Path(settings.base.model).is_dir():
        from cluster.preflight import check_layers

        check_layers(settings)
    return Finding("base model", "ok", f"{settings.base.model}, {size / 1e6:,.0f} MB of weights")


def _whole(file: Path) -> int:
    """Size of a file of weights. Raises SafetensorError, or `CheckpointError` naming it, where it is cut."""
    from safetensors import SafetensorError, safe_open

    from learning.errors import CheckpointError

    try:
        with safe_open(file, framework="np"):
            return file.stat().st_size
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file}: expected weights as safetensors, got {_words(error)}; fetch it again"
        ) from error


def _needed(settings: Settings) -> int:
    """Bytes that the parts of a system take, about: of each its copy of the base, and what a process takes."""
    from console.machine import PART_BYTES

    folder = _folder(settings.base.model)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0
    parts = settings.serving.replicas.fewest + settings.learner.workers.fewest + settings.ingest.workers
    return int(parts * (PART_BYTES + weights))


def _gpus(settings: Settings) -> Finding:
    """As many as the workers need, and what is put on them fits."""
    from configs.memory_sum import check_memory, packed, shape_of
    from console.machine import GIB, graphics

    check_memory(settings)
    shape, size = shape_of(settings), settings.ray.gpu_memory_gib
    wanted = 1 if shape is None or size is None else len(packed(settings, shape, int(size * GIB)))
    return graphics(wanted=wanted, elsewhere=settings.ray.address is not None)


def _registry(settings: Settings) -> Finding:
    """Where versions are kept: a new place, or one that answers and is whole at its head."""
    from cluster import builders
    from console.machine import Finding

    storage = builders.storage(settings)
    if settings.registry.url is None and not builders.registry_root(settings.home).is_dir():
        return Finding("registry", "ok", "none yet; the first start makes it")
    if not storage.entries("manifests"):
        return Finding("registry", "ok", f"{storage.root}: answers; nothing is published yet")
    manifest = builders.registry(settings).current()
    return Finding("registry", "ok", f"{storage.root}: manifest {manifest.number if manifest else 0} in force")


def _stream(settings: Settings) -> Finding:
    """Whether the broker answers; a topic that is missing is made by the first start."""
    from cluster import builders
    from console.machine import Finding
    from streaming.errors import TopicMissing
    from streaming.kafka_topic import KafkaTopic

    options = builders.kafka_options(settings)
    if options is None:
        return Finding("stream", "ok", f"embedded: {builders.stream_file(settings.home)}")
    options.check()
    try:
        asked = dataclasses.replace(options, bootstrap_timeout_ms=_BROKER_MS)
        topic = KafkaTopic(asked, settings.stream.topic)
    except TopicMissing:
        return Finding("stream", "ok", f"{options}: answers; the first start makes topic {settings.stream.topic}")
    try:
        partitions = len(topic.partitions)
    finally:
        topic.close()
    return Finding("stream", "ok", f"{options}: answers; topic {settings.stream.topic}, {partitions} partitions")


def _port(settings: Settings) -> Finding:
    """The front door's port: free, or an Anabranch's own."""
    import httpx

    from cluster.errors import ClusterError
    from cluster.preflight import free_port
    from console.machine import Finding

    host, port = settings.serving.host, settings.serving.port
    try:
        free_port(settings)
    except ClusterError:
        try:
            asked = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            answer = httpx.get(f"http://{asked}:{port}/healthz", timeout=2).json()
        except (httpx.HTTPError, ValueError):
            answer = None
        if not isinstance(answer, dict) or "ready" not in answer:
            raise
        remedy = "for a second one set another serving.port and home"
        return Finding("port", "warning", f"{host}:{port}: an Anabranch answers there", remedy)
    return Finding("port", "ok", f"{host}:{port} is free" if port else "any free one is taken")
