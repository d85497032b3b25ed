"""The tokens of an answer, as the engine counts them: whole, streamed, or left by its client in the middle.

A stream tells its usage only where it is asked to; it is asked here, and the client sees what it has asked for itself.
Knows no key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from serving.openai_body import is_true
from serving.reply import LeasedEvents, Reply

_ASKED = {"include_usage": True, "continuous_usage_stats": True}


class Tally:
    """Counts one request's tokens and tells them to `spend`; `body` is what the engine is to be asked."""

    def __init__(self, body: Mapping[str, Any], spend: Callable[[int], None]) -> None:
        self.body, self._spend = dict(body), spend
        options = body.get("stream_options")
        self._shown = {"final": False, "running": False}
        if is_true(body.get("stream")) and (options is None or isinstance(options, dict)):
            asked = options or {}
            final = is_true(asked.get("include_usage"))
            self._shown = {"final": final, "running": final and is_true(asked.get("continuous_usage_stats"))}
            self.body["stream_options"] = {**asked, **_ASKED}
        samples = body.get("n", 1)
        self._samples = samples if isinstance(samples, int) and samples > 0 else 1
        self._prompts: dict[int, int] = {}
        self._answers: dict[int, int] = {}
        self._total: int | None = None

    def of(self, reply: Reply) -> Reply:
        """The same reply, counted: at once, or as its events go by."""
        if reply.events is not None:
            return replace(reply, events=CountedEvents(reply.events, self))
        self._spend(_number((reply.body or {}).get("usage"), "total_tokens"))
        return reply

    def seen(self, event: str) -> str | None:
        """Count an event; returns what the client sees of it, None for nothing."""
        if '"usage"' not in event or not event.startswith("data: {"):
            return event
        data = json.loads(event.removeprefix("data: "))
        choices, usage = data.get("choices"), data.get("usage")
        if not isinstance(choices, list) or not isinstance(usage, dict):
            return event
        if not choices:
            self._total = _number(usage, "total_tokens")
            return event if self._shown["final"] else None
        for choice in choices:
            index = choice.get("index", 0)
            self._prompts[index // self._samples] = _number(usage, "prompt_tokens")
            self._answers[index] = _number(usage, "completion_tokens")
        if self._shown["running"]:
            return event
        del data["usage"]
        return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def ended(self) -> None:
        """Tell what was used: by the stream's own last word, or, where that has not come, by what had come. Once."""
        running = sum(self._prompts.values()) + sum(self._answers.values())
        spend, self._spend = self._spend, lambda tokens: None
        spend(running if self._total is None else self._total)


class CountedEvents(LeasedEvents):
    """The same events, as a tally sees them go by."""

    def __init__(self, events: LeasedEvents, tally: Tally) -> None:
        super().__init__(events.events, events.lease)
        self._tally = tally

    async def __anext__(self) -> str:
        while (shown := self._tally.seen(await super().__anext__())) is None:
            pass
        return shown

    async def aclose(self) -> None:
        self._tally.ended()
        await super().aclose()


def _number(usage: object, name: str) -> int:
    found = usage.get(name) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) else 0
