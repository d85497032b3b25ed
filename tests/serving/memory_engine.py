"""An engine without a model, for what does not depend on one: it keeps the port's contract and remembers what it did.

Its answers are the adapter's name and the prompt, one token per word, so that a wrong adapter shows in the text.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.engine import Answer, Call, Engine, Kind, LoadedAdapter, Reading
from serving.errors import EngineFailed, Unavailable
from serving.openai_body import bad_request, plain_messages, prompts_of

WORDS = ["zero", "one", "two", "three", "four", "five"]


Token = Annotated[int, Field(ge=0)]


class Request(BaseModel):
    """The fields that matter here, read by the rules that vLLM reads them by."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    prompt: list[Token] | list[list[Token]] | str | list[str] | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list)
    n: int = Field(1, ge=1)
    stream: bool = False


class MemoryEngine:
    """`log` holds every load and unload in order; `bad` names of versions whose load or probe fails, by step.

    A version that is `busy` has its probe unanswered; a `dying` one takes the engine down with it.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.present: dict[str, LoadedAdapter] = {}
        self.names: dict[int, str] = {}
        self.bad: dict[str, str] = {}
        self.running = 0
        self.used: Counter[str] = Counter()
        """By adapter, the generations under way; one that is unloaded meanwhile is an error."""
        self.most_used = 0
        """The most adapters that were used at once."""
        self.room = 1000
        self.aborted = 0
        self.failure: str | None = None
        self.context_tokens = 100
        self.base = ""
        """Name of the change that it runs on."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.hanging = asyncio.Event()
        """What ends the loads that hang."""
        self.changing = asyncio.Event()
        self.changing.set()

    dtype = "float32"

    async def load(self, adapter: LoadedAdapter, folder: Path | None) -> None:
        await asyncio.sleep(0)
        self._check_alive()
        assert (folder is None) == (adapter.rank == 0), f"{adapter.name} of rank {adapter.rank} in {folder}"
        if self.bad.get(adapter.name) == "load":
            raise EngineFailed(f"{adapter.name} does not fit")
        assert self.names.setdefault(adapter.number, adapter.name) == adapter.name, "an engine id stood for two"
        self.present[adapter.name] = adapter
        assert sum(each.rank > 0 for each in self.present.values()) <= self.room, "more adapters than there is room for"
        self.log.append(("load", adapter.name))
        if self.bad.get(adapter.name) == "hang":
            await self.hanging.wait()

    async def unload(self, adapter: LoadedAdapter) -> None:
        await asyncio.sleep(0)
        if self.bad.get(adapter.name) == "unload":
            raise EngineFailed(f"{adapter.name} stays")
        assert not self.used[adapter.name], f"{adapter.name} was unloaded under a request"
        self.present.pop(adapter.name, None)
        self.log.append(("unload", adapter.name))

    async def change_base(self, delta: Path | None) -> None:
        assert self.running == 0, "the base was changed under a request"
        await asyncio.sleep(0)
        self._check_alive()
        self.base = "changing"
        await self.changing.wait()
        name = delta.name if delta is not None else ""
        if self.bad.get(name or "base") == "change":
            raise EngineFailed(f"{delta} is none of its own")
        self.base = name
        self.log.append(("change", name))

    async def probe(self, adapter: LoadedAdapter | None) -> None:
        await asyncio.sleep(0)
        fault = None if adapter is None else self.bad.get(adapter.name)
        if fault == "busy":
            await asyncio.Event().wait()
        if fault == "dying":
            self.failure = "out of memory"
        self._check_alive()
        if fault == "probe":
            raise EngineFailed("nan")

    async def losses(self, adapter: LoadedAdapter | None, rows: Sequence[Reading]) -> list[float]:
        """1 without an adapter, else by what is wrong with it: none, or another's effect."""
        await self.probe(adapter)
        fault = None if adapter is None else self.bad.get(adapter.name)
        found = {None: 0.1, "no effect": 1.0, "another": 2.0}[fault] if adapter is not None else 1.0
        return [found] * len(rows)

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Call:
        try:
            parsed = Request.model_validate(dict(body))
        except ValidationError as error:
            raise bad_request("; ".join(fault["msg"] for fault in error.errors())) from error
        if kind == "completion":
            prompts = prompts_of(parsed.prompt)
            return Call(kind, body, parsed.stream, parsed, parsed.model, prompts, samples=parsed.n)
        if "messages" not in body or not all(isinstance(message.get("role"), str) for message in parsed.messages):
            raise bad_request("messages: Field required", "messages")
        messages = plain_messages(parsed.messages)
        return Call(kind, body, parsed.stream, parsed, parsed.model, messages=messages, samples=parsed.n)

    async def generate(
        self, call: Call, adapter: LoadedAdapter | None, done: Callable[[], None] = lambda: None
    ) -> Answer:
        if adapter is not None and adapter.name not in self.present:
            raise AssertionError(f"{adapter.name} is asked for but not loaded")
        model = "base" if adapter is None else adapter.name
        if call.stream:
            return self._events(call, model, done)
        with self._running(model):
            await self.gate.wait()
        choices = [self._choice(index, text) for index, text in enumerate(self._texts(call, model))]
        usage = {"prompt_tokens": len(choices), "completion_tokens": len(choices), "total_tokens": 2 * len(choices)}
        return {"id": "memory", "created": 1, "model": model, "choices": choices, "usage": usage}

    async def _events(self, call: Call, model: str, done: Callable[[], None]) -> AsyncGenerator[str, None]:
        texts, asked = self._texts(call, model), call.body.get("stream_options") or {}
        try:
            with self._running(model):
                for index, text in enumerate(texts):
                    for said, word in enumerate(text.split(" "), 1):
                        await self.gate.wait()
                        await asyncio.sleep(0)
                        so_far = {"prompt_tokens": 1, "completion_tokens": said, "total_tokens": said + 1}
                        more = {"usage": so_far} if asked.get("continuous_usage_stats") else {}
                        yield self._event(model, [self._choice(index, word + " ")], **more)
            if asked.get("include_usage"):
                counts = {"prompt_tokens": len(texts), "completion_tokens": 1, "total_tokens": len(texts) + 1}
                yield self._event(model, [], usage=counts)
            done()
            yield "data: [DONE]\n\n"
        except (GeneratorExit, asyncio.CancelledError):
            self.aborted += 1
            raise

    @contextmanager
    def _running(self, model: str) -> Iterator[None]:
        assert model == "base" or model in self.present, f"{model} was put out before its request began"
        self.running += 1
        self.used[model] += 1
        self.most_used = max(self.most_used, len(+self.used) - ("base" in +self.used))
        try:
            yield
        finally:
            self.running -= 1
            self.used[model] -= 1

    @staticmethod
    def _texts(call: Call, model: str) -> list[str]:
        prompts = call.prompts or (call.messages[-1]["content"],)
        return [f"{model} {prompt} {sample}" for prompt in prompts for sample in range(call.samples)]

    @staticmethod
    def _choice(index: int, text: str) -> dict[str, Any]:
        return {"index": index, "text": text, "message": {"role": "assistant", "content": text}}

    @staticmethod
    def _event(model: str, choices: list[dict[str, Any]], **more: Any) -> str:
        body = {"id": f"memory-{model}", "created": 1, "model": model, "choices": choices, **more}
        return f"data: {json.dumps(body)}\n\n"

    def decode(self, token_ids: Sequence[int]) -> str:
        if not all(0 <= token < len(WORDS) for token in token_ids):
            raise bad_request("token ids out of range", "prompt")
        return " ".join(WORDS[token] for token in token_ids)

    def metrics(self) -> bytes:
        return b"# TYPE memory_engine gauge\nmemory_engine 1\n"

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise Unavailable(self.failure)

    async def stop(self) -> None:
        self.failure = "stopped"


if TYPE_CHECKING:
    _: type[Engine] = MemoryEngine
