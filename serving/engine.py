"""The engine as the rest of serving sees it: load, probe, generate, unload. Knows no manifest, no routing, no HTTP.

Two implementations keep this contract (tests/serving/test_engine_contract.py): vLLM's and the tests' in memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["chat", "completion"]
Prompt = str | list[int]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter under the identity that the engine knows it by.

    `name`: `domain@vN-<digest8>`. `number`: the engine's id, which stands for this adapter alone in this process, as
    engines key caches by it. `rank`: of the PEFT configuration; 0 where there is no adapter and the base answers under
    this name.
    """

    name: str
    number: int
    domain: str
    rank: int


@dataclass(frozen=True)
class Call:
    """A generation request that the engine has validated: `body` as sent, `parsed` in the engine's own form.

    What is decided about a request is decided on the parsed values. `model`: None is not named. `prompts`: a
    completion's, one entry per prompt. `messages`: a chat's roles with their texts. `samples`: answers per prompt.
    """

    kind: Kind
    body: Mapping[str, Any]
    stream: bool
    parsed: Any
    model: str | None = None
    prompts: tuple[Prompt, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    samples: int = 1

    @property
    def rows(self) -> int:
        """What is generated at the same time."""
        return max(1, len(self.prompts)) * self.samples


class Reading(Protocol):
    """Tokens to be read: a prompt and what follows it."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def prompt_tokens(self) -> int: ...


# An OpenAI response object, or server-sent events ("data: ...\n\n") ending in "data: [DONE]\n\n".
Answer = dict[str, Any] | AsyncGenerator[str, None]


class Engine(Protocol):
    """One engine; every method is called on one event loop."""

    @property
    def failure(self) -> str | None:
        """Why the engine can't answer any more, or None while it lives."""

    @property
    def context_tokens(self) -> int:
        """The most tokens that prompt and answer may have together."""

    @property
    def dtype(self) -> str:
        """Precision that it computes in: float32, bfloat16 or float16."""

    async def load(self, adapter: LoadedAdapter, folder: Path | None) -> None:
        """Bring the adapter in its immutable PEFT folder beside those in use; None where the base answers for it.

        There is room for `max_cpu_loras` adapters and one more. Raises EngineFailed for one that can't be loaded, and
        nothing is; Unavailable once the engine is dead.
        """

    async def unload(self, adapter: LoadedAdapter) -> None:
        """Forget the adapter; no error if the engine does not hold it, or no longer. Raises EngineFailed."""

    async def change_base(self, delta: Path | None) -> None:
        """Give the base the weights of a change (`learning.base_delta`), or its own for None; what is loaded stays.

        To be called while no request is under way: one that is would be answered by both. Raises EngineFailed, and the
        base may be anything then; Unavailable once the engine is dead.
        """

    async def probe(self, adapter: LoadedAdapter | None) -> None:
        """Generate one token, with one adapter more than requests may have in the batch, one probe at a time.

        Raises EngineFailed if the token fails or its log probability is no finite number; Unavailable once the engine
        is dead. To be cancelled by whoever has no more patience.
        """

    async def losses(self, adapter: LoadedAdapter | None, rows: Sequence[Reading]) -> list[float]:
        """Of each, the mean cross-entropy of what follows its prompt, in nats a token; as `probe` otherwise."""

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Call:
        """Validate an OpenAI request; its `model` is not looked at. Raises Refused."""

    async def generate(
        self, call: Call, adapter: LoadedAdapter | None, done: Callable[[], None] = lambda: None
    ) -> Answer:
        """Answer with the adapter, or with the base for None; the answer's `model` is the adapter's name or "base".

        Of a stream, `done` is called as soon as all tokens are made, whether they were taken or not. One that is closed
        early aborts its generation. Raises Refused, or Unavailable once the engine is dead.
        """

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a prompt given as token ids, special tokens included. Raises Refused for ids out of range."""

    def metrics(self) -> bytes:
        """The engine's metrics as Prometheus text."""

    async def stop(self) -> None:
        """End the engine and every process it has started. Idempotent."""
