"""What an engine is started with. Plain values: no config tree, no vLLM import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from serving.errors import BadOptions

# The ranks that vLLM's kernels are built for; an adapter of a lower rank is padded up to the next one.
KERNEL_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class EngineOptions:
    """Arguments of one engine.

    `model`: folder or name of the base. `dtype`: float32, bfloat16 or float16. `max_model_len`: tokens of prompt and
    answer together. `chat_template`: None takes the tokenizer's own. `terminator`: a text that ends every answer and is
    never part of it; None leaves the end to the tokenizer's end-of-text token. `max_loras`: adapters in one batch;
    `max_cpu_loras`: adapters kept in memory, others are read again from their folder. `max_lora_rank`: the largest rank
    of an adapter. `max_num_seqs`: requests in one batch. `kv_cache_bytes`: None lets vLLM measure.
    `gpu_memory_utilization`: fraction of the device; None takes vLLM's default. `threads`: OpenMP threads of the engine
    on a CPU. `extra`: further vLLM engine arguments, which win over what is set here. `tool_call_parser`,
    `reasoning_parser`: vLLM's names; None switches the feature off.
    """

    model: str
    dtype: str = "bfloat16"
    max_model_len: int = 2048
    chat_template: str | None = None
    terminator: str | None = None
    max_loras: int = 8
    max_cpu_loras: int = 64
    max_lora_rank: int = 16
    max_num_seqs: int = 32
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float | None = None
    enforce_eager: bool = False
    threads: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None

    def __post_init__(self) -> None:
        if self.max_cpu_loras < self.max_loras:
            raise BadOptions(
                f"max_cpu_loras is {self.max_cpu_loras}, expected at least max_loras ({self.max_loras}): "
                "every adapter of a batch is held in memory too; raise max_cpu_loras"
            )
        if not 1 <= self.max_lora_rank <= KERNEL_RANKS[-1]:
            raise BadOptions(
                f"max_lora_rank is {self.max_lora_rank}, expected 1 to {KERNEL_RANKS[-1]}: vLLM has no kernels beyond"
            )
        if self.terminator == "":
            raise BadOptions("terminator is an empty text, which ends no answer; give a text or None")

    @property
    def kernel_rank(self) -> int:
        """The smallest rank with kernels that takes an adapter of `max_lora_rank`."""
        return next(rank for rank in KERNEL_RANKS if rank >= self.max_lora_rank)
