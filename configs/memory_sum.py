"""Whether what is to run on the GPUs fits there, before anything starts: the sum, in words, and the refusal.

Workers with a share of a GPU are packed onto as few as hold their shares, in the order in which they are started, as
Ray does; one with whole GPUs has them for itself. What this module does not know: how a term comes about (`memory`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs import memory
from configs.errors import ConfigError
from configs.memory import CACHE, GIB, Terms
from configs.settings import Settings
from learning.catalogue import located
from learning.errors import CheckpointError
from learning.model_shape import PUBLISHED, ModelShape, read_shape

_LARGEST = 3
_SPARE = 1e-9


@dataclass(frozen=True)
class Demand:
    """What one worker takes of one GPU; `terms` are bytes."""

    who: str
    share: float
    terms: Terms

    def __str__(self) -> str:
        told = ", ".join(f"{name} {_gib(size)}" for name, size in self.terms.items() if size)
        return f"{self.who}: {told}"


@dataclass
class Gpu:
    """One GPU and who is on it."""

    demands: list[Demand] = field(default_factory=list)

    @property
    def free(self) -> float:
        """The share that is not taken yet."""
        return 1.0 - sum(demand.share for demand in self.demands)

    @property
    def used(self) -> int:
        """Bytes of all terms."""
        return sum(sum(demand.terms.values()) for demand in self.demands)

    def largest(self) -> str:
        """Its largest terms, in words."""
        terms = [(size, f"{demand.who}'s {name}") for demand in self.demands for name, size in demand.terms.items()]
        return ", ".join(f"{name} {_gib(size)}" for size, name in sorted(terms, reverse=True)[:_LARGEST])


def uses_gpus(settings: Settings) -> bool:
    """Whether any worker reserves a share of a GPU."""
    return any(part.num_gpus > 0 for part in (settings.ingest, settings.learner, settings.serving))


def shape_of(settings: Settings) -> ModelShape | None:
    """The shape of the base: from its folder, from a hub's copy here, or as published; None where nothing tells.

    Raises `learning.errors.CheckpointError` for a base whose configuration is no dense decoder's.
    """
    model = settings.base.model
    folder = Path(located(model))
    if folder.is_dir():
        return read_shape(folder)
    if model in PUBLISHED:
        return PUBLISHED[model]
    # A hub client takes a quarter of a second to import, and most bases are told by now.
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json") if model.count("/") <= 1 else None
    return read_shape(Path(found).parent) if isinstance(found, str) else None


def packed(settings: Settings, shape: ModelShape, gpu_bytes: int) -> list[Gpu]:
    """The GPUs that the workers need, and who is on each."""
    gpus: list[Gpu] = []
    for demand in _demands(settings, shape, gpu_bytes):
        if demand.share >= 1:
            gpus.extend(Gpu([demand]) for _ in range(int(demand.share)))
            continue
        room = next((gpu for gpu in gpus if gpu.free + _SPARE >= demand.share), None)
        if room is None:
            gpus.append(room := Gpu())
        room.demands.append(demand)
    return gpus


def check_memory(settings: Settings) -> list[str]:
    """The sum in lines, none where no GPU is used. Raises ConfigError, one line, for what can't fit or be told."""
    if not uses_gpus(settings):
        return []
    try:
        shape = shape_of(settings)
    except CheckpointError as error:
        raise ConfigError(f"{settings.name}: base.model: {error}") from error
    if shape is None:
        return [f"memory: not summed, nothing here tells the shape of {settings.base.model}; fetch its config.json"]
    size = settings.ray.gpu_memory_gib
    if size is None:
        return ["memory: not summed, ray.gpu_memory_gib is not set: how much each GPU has"]
    gpus = packed(settings, shape, int(size * GIB))
    for number, gpu in enumerate(gpus, start=1):
        _refuse_what_does_not_fit(settings, shape, number, gpu)
    lines = [f"memory: {settings.base.model}, {shape.weights:,} weights; in GiB"]
    for told, count in Counter(_told(gpu) for gpu in gpus).items():
        head, *parts = told
        lines += [f"{count} GPU{'s, each' if count > 1 else ''}: {head} of {size:g}", *(f"  {part}" for part in parts)]
    tokens = _cache_tokens(settings, shape, gpus)
    lines.append(
        f"cache of each engine: {tokens:,} tokens, {tokens // settings.base.max_model_len} whole requests of "
        f"{settings.base.max_model_len:,}"
    )
    return lines


def _demands(settings: Settings, shape: ModelShape, gpu_bytes: int) -> Iterator[Demand]:
    ingest, learner, serving = settings.ingest, settings.learner, settings.serving
    on_gpu = settings.features.device.startswith("cuda")
    if ingest.num_gpus > 0:
        yield from [
            Demand("ingest", ingest.num_gpus, memory.features(settings, shape) if on_gpu else {})
        ] * ingest.workers
    if learner.num_gpus > 0:
        yield from [Demand("learner", learner.num_gpus, memory.learner(settings, shape))] * learner.workers.most
    if serving.num_gpus > 0:
        scorer = _prefixed("scorer's ", memory.features(settings, shape)) if on_gpu else {}
        terms = {**memory.engine(settings, shape, gpu_bytes), **scorer}
        yield from [Demand("replica", serving.num_gpus, terms)] * serving.replicas.most


def _refuse_what_does_not_fit(settings: Settings, shape: ModelShape, number: int, gpu: Gpu) -> None:
    size = settings.ray.gpu_memory_gib or 0.0
    needed = memory.cache_bytes_per_token(settings, shape) * settings.base.max_model_len
    for demand in gpu.demands:
        cache = demand.terms.get(CACHE, needed)
        if cache < needed:
            raise ConfigError(
                f"{settings.name}: serving: expected {_gib(needed)} GiB of key-value cache, one request of "
                f"base.max_model_len, got {_gib(max(0, cache))} beside {gpu.largest()}; raise "
                "serving.gpu_memory_utilization or kv_cache_bytes, or lower max_model_len or max_loras"
            )
    if gpu.used > size * GIB:
        raise ConfigError(
            f"{settings.name}: GPU {number}: expected at most ray.gpu_memory_gib ({size:g} GiB), got {_gib(gpu.used)}, "
            f"the largest {gpu.largest()}; take a smaller base, share it less, or lower kv_cache_bytes, "
            "gpu_memory_utilization or learner.micro_batch_tokens"
        )


def _cache_tokens(settings: Settings, shape: ModelShape, gpus: list[Gpu]) -> int:
    caches = [demand.terms[CACHE] for gpu in gpus for demand in gpu.demands if CACHE in demand.terms]
    return min(caches, default=0) // memory.cache_bytes_per_token(settings, shape)


def _told(gpu: Gpu) -> tuple[str, ...]:
    """What it holds, then a line for each kind of worker on it."""
    workers = Counter(str(demand) for demand in gpu.demands)
    return (_gib(gpu.used), *(f"{count} x {line}" if count > 1 else line for line, count in workers.items()))


def _prefixed(prefix: str, terms: Terms) -> Mapping[str, int]:
    return {f"{prefix}{name}": size for name, size in terms.items()}


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
