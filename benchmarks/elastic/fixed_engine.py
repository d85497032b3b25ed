"""An engine in its real replica that takes a fixed time and no processor: a hundredth of a second a token, for
`serving.max_num_seqs` requests at once. Whoever comes beyond them waits in it, as in a batch that is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import builders
from configs.settings import Settings
from registry.manifest import Manifest
from serving.engine import Answer, Call, Engine, Kind, LoadedAdapter, Reading
from serving.openai_body import bad_request, plain_messages, prompts_of
from serving.service import RoutedService

TOKEN_S = 0.01
_DEFAULT_TOKENS = 16


class FixedEngine:
    """Answers any prompt with the name of whoever speaks, after `max_tokens` times `TOKEN_S`; never by a stream."""

    def __init__(self, at_once: int, context_tokens: int) -> None:
        self.failure: str | None = None
        self.context_tokens = context_tokens
        self._slots = asyncio.Semaphore(at_once)

    dtype = "float32"

    async def load(self, adapter: LoadedAdapter, folder: Path | None) -> None:
        """Costs nothing."""

    async def unload(self, adapter: LoadedAdapter) -> None:
        """Costs nothing."""

    async def change_base(self, delta: Path | None) -> None:
        """Costs nothing."""

    async def probe(self, adapter: LoadedAdapter | None) -> None:
        """Always well."""

    async def losses(self, adapter: LoadedAdapter | None, rows: Sequence[Reading]) -> list[float]:
        """Nothing is learned here."""
        return [0.0] * len(rows)

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Call:
        """Take what the benchmark and the product's own probes send."""
        if body.get("stream"):
            raise bad_request("the fixed engine has no streams", "stream")
        prompts = prompts_of(body.get("prompt")) if kind == "completion" else ()
        messages = plain_messages(body.get("messages") or ())
        return Call(kind, body, False, dict(body), body.get("model"), prompts, messages)

    async def generate(
        self, call: Call, adapter: LoadedAdapter | None, done: Callable[[], None] = lambda: None
    ) -> Answer:
        """Wait for a slot, and then for the fixed time."""
        tokens = int(call.body.get("max_tokens") or _DEFAULT_TOKENS)
        async with self._slots:
            await asyncio.sleep(tokens * TOKEN_S)
        name = adapter.name if adapter is not None else "base"
        message = {"role": "assistant", "content": name}
        choices = [
            {"index": index, "text": name, "message": message, "finish_reason": "length"}
            for index in range(max(len(call.prompts), 1))
        ]
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        return {"id": "fixed", "created": 1, "model": name, "choices": choices, "usage": usage}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Tokens are words of no meaning."""
        return " ".join(map(str, token_ids))

    def metrics(self) -> bytes:
        """None."""
        return b""

    async def stop(self) -> None:
        """End."""
        self.failure = "stopped"


class _Unasked:
    """In the place of feature extractor and prompt template, which a request with a domain's name does not need."""

    terminator = None

    def __init__(self, manifest: Manifest | None) -> None:
        self.fingerprint = manifest.router.fingerprint if manifest and manifest.router else ""


async def start(settings: Settings) -> RoutedService:
    """A replica's service on a fixed engine, standing on the manifest in force; for `cluster.frontdoor.application`."""
    unasked: Any = _Unasked
    service = RoutedService(
        FixedEngine(settings.serving.max_num_seqs, settings.base.max_model_len),
        builders.registry(settings),
        unasked,
        unasked(None),
        settings.serving,
        builders.base_revision(settings),
        max_prompts=settings.serving.max_prompts,
        drain_seconds=settings.serving.drain_seconds,
    )
    await service.catch_up()
    return service


if TYPE_CHECKING:
    _: type[Engine] = FixedEngine
