"""A batch of completion prompts that go to different adapters: split by adapter, merged to one OpenAI answer.

Choice `index` of the whole is prompt * n + sample, as if one model had answered all. Knows no engine.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from serving.engine import LoadedAdapter
from serving.selection import Choice

DONE = "data: [DONE]\n\n"
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@dataclass(frozen=True)
class Group:
    """The prompts of a batch that one adapter answers; `positions` are theirs in the whole batch, ascending."""

    adapter: LoadedAdapter | None
    positions: tuple[int, ...]

    def index(self, own: int, samples: int) -> int:
        """The whole batch's choice index for this group's; `samples` answers per prompt."""
        return self.positions[own // samples] * samples + own % samples


def groups_of(choices: Sequence[Choice]) -> list[Group]:
    """Prompts grouped by adapter, in the order of each group's first prompt."""
    positions: dict[str, list[int]] = {}
    for position, choice in enumerate(choices):
        positions.setdefault(choice.version, []).append(position)
    return [Group(choices[own[0]].adapter, tuple(own)) for own in positions.values()]


def merged(groups: Sequence[Group], answers: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    """One completion object; its `model` names every adapter that took part, comma-joined."""
    choices = [
        {**choice, "index": group.index(choice["index"], samples)}
        for group, answer in zip(groups, answers, strict=True)
        for choice in answer["choices"]
    ]
    return {
        **answers[0],
        "model": ",".join(str(answer["model"]) for answer in answers),
        "choices": sorted(choices, key=lambda choice: choice["index"]),
        "usage": _summed([answer.get("usage") for answer in answers]),
    }


async def merged_events(
    groups: Sequence[Group], streams: Sequence[AsyncGenerator[str, None]], samples: int
) -> AsyncGenerator[str, None]:
    """One stream of server-sent events under one id; each event keeps the `model` of the adapter that spoke."""
    identity: dict[str, Any] = {}
    usages: list[Mapping[str, Any]] = []
    last: dict[str, Any] = {}
    async with aclosing(_interleaved(streams)) as events:
        async for which, event in events:
            if event == DONE:
                continue
            data = json.loads(event.removeprefix("data: "))
            if "choices" not in data:
                yield event  # an error object, as it is
                continue
            if not identity:
                identity = {"id": data["id"], "created": data["created"]}
            data |= identity
            if not data["choices"]:
                # Each group's own closing usage; the whole batch gets one.
                usages.append(data["usage"])
                last = data
                continue
            for choice in data["choices"]:
                choice["index"] = groups[which].index(choice["index"], samples)
            yield sent(data)
    if usages:
        names = ",".join("base" if group.adapter is None else group.adapter.name for group in groups)
        yield sent({**last, "model": names, "usage": _summed(usages)})
    yield DONE


async def announced(
    events: AsyncGenerator[str, None], fields: Mapping[str, Any], first: Mapping[str, Any]
) -> AsyncGenerator[str, None]:
    """The same stream; each event with choices has these fields as well, and the first of them those of `first`."""
    all_of_them, begins = _fields({**fields, **first}), "data: {"
    async with aclosing(events):
        async for event in events:
            # In front of what is there, so that nothing has to be read: an engine may make thousands in a second.
            if event.startswith(begins) and '"choices":' in event:
                event = begins + all_of_them + event[len(begins) :]
                if first:
                    all_of_them, first = _fields(fields), {}
            yield event


def _fields(fields: Mapping[str, Any]) -> str:
    """As they stand before others in an object of JSON."""
    return "".join(f"{json.dumps(name)}:{_json(value)}," for name, value in fields.items())


async def _interleaved(streams: Sequence[AsyncGenerator[str, None]]) -> AsyncGenerator[tuple[int, str], None]:
    """(stream's position, event) as they come. Closing this closes every stream."""
    pending = {asyncio.ensure_future(anext(stream, None)): which for which, stream in enumerate(streams)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                which = pending.pop(task)
                event = task.result()
                if event is not None:
                    pending[asyncio.ensure_future(anext(streams[which], None))] = which
                    yield which, event
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def _summed(usages: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    total: dict[str, Any] = {count: sum((usage or {}).get(count) or 0 for usage in usages) for count in _COUNTS}
    cached = [usage["prompt_tokens_details"] for usage in usages if usage and usage.get("prompt_tokens_details")]
    if cached:
        total["prompt_tokens_details"] = {"cached_tokens": sum(details.get("cached_tokens") or 0 for details in cached)}
    return total


def sent(data: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {_json(data)}\n\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
