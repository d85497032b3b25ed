"""What an engine is started with: its knobs, and the facts of the base that it runs.

Each knob stands here once, with its unit, its bounds and what follows from it; whoever reads settings from a file may
inherit `EngineKnobs` as it is. Needs pydantic only. Knows no settings file, no vLLM and no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

# The ranks that vLLM's kernels are built for; an adapter of a lower rank is padded up to the next one.
KERNEL_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

# The environment variable by which an engine's processes know the one that they must not outlive.
PARENT_PID = "ANABRANCH_ENGINE_PARENT"

Count = Annotated[int, Field(ge=1)]

MAX_PROMPTS = 256
"""Prompts or texts in one request, where nobody sets another limit."""

MOST_PARTS = 4
"""Adapters that one answer may be mixed of."""

CONVERSATION_MARGIN = 0.3
"""By how much a chat's last message must lead to change its domain, where nobody sets another; ridge heads' scores."""


class TlsFiles(BaseModel):
    """Certificates of the front door, in PEM. Files that change are taken within seconds, without a connection lost."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    certificate: Path | None = None
    """The front door's certificate, with the chain to its authority; None answers in plain HTTP."""
    key: Path | None = None
    """Its private key, without a password."""
    client_ca: Path | None = None
    """The authority that clients' certificates must be of: who shows none is not let in. None asks for none."""

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None) or (self.client_ca and not self.certificate):
            message = "certificate and key belong together, and a client_ca to them; set all that you mean"
            raise PydanticCustomError("disagreement", "{message}", {"path": "key", "message": message})
        return self


class EngineKnobs(BaseModel):
    """How an engine uses its machine, whatever base it runs. Raises pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())

    max_loras: Count = 4
    """Adapters in one batch; requests for more wait. A publication's probe has a slot beside them."""
    max_cpu_loras: Count = 16
    """Adapters kept in the host's memory, those of a batch among them; any other is read again from its folder, before
    its request goes to the engine."""
    patience_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.5
    """Seconds that a request waits for a slot until one of the adapters in the batch takes no more requests and makes
    room. Longer fills batches better while few domains are hot; every domain is served with any."""
    max_lora_rank: Annotated[int, Field(ge=1, le=KERNEL_RANKS[-1])] = 16
    """Largest rank that can be served; the slots' memory grows with it."""
    max_num_seqs: Count = 32
    """Requests generated at the same time by one engine."""
    kv_cache_bytes: Annotated[int, Field(ge=1 << 20)] | None = None
    """Bytes of key-value cache; None leaves it to gpu_memory_utilization."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the GPU's memory that the engine takes; None leaves it to the engine."""
    enforce_eager: bool = False
    """True compiles nothing and skips graph capture: a faster start, slower tokens."""
    threads: Count | None = None
    """CPU threads of an engine on CPUs; None leaves it to the engine."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Further vLLM engine arguments, passed through as they are; they win over what the other knobs set."""
    tool_call_parser: str | None = None
    """vLLM's name of the parser of tool calls; None means no tools."""
    reasoning_parser: str | None = None
    """vLLM's name of the parser of reasoning; None means none."""

    @model_validator(mode="after")
    def _holds_a_batch(self) -> Self:
        if self.max_cpu_loras < self.max_loras:
            message = f"expected at least max_loras ({self.max_loras}), got {self.max_cpu_loras}"
            # The form in which settings report two keys that contradict each other.
            raise PydanticCustomError("disagreement", "{message}", {"path": "max_cpu_loras", "message": message})
        return self

    @property
    def kernel_rank(self) -> int:
        """The smallest rank with kernels that takes an adapter of `max_lora_rank`."""
        return next(rank for rank in KERNEL_RANKS if rank >= self.max_lora_rank)


class EngineOptions(EngineKnobs):
    """All of one engine: the knobs, and the base it runs. Raises pydantic's ValidationError."""

    model: Annotated[str, Field(min_length=1)]
    """Folder or name of the base."""
    dtype: Literal["float32", "bfloat16", "float16"]
    """Precision in which the engine holds the weights."""
    max_model_len: Count
    """Tokens of prompt and answer together; longer requests are refused, and cache memory grows with it."""
    chat_template: str | None = None
    """Jinja text that replaces the tokenizer's own chat template; None keeps that one."""
    terminator: Annotated[str, Field(min_length=1)] | None = None
    """Text that ends every answer and is never part of it; None leaves the end to the end-of-text token."""
