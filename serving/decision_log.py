"""Keeps decisions on requests for a person to look at, beside the requests: none waits for it, none fails with it.

Knows no HTTP. Where decisions come faster than the registry takes them, some are passed over, and that is said.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from registry.decisions import DecisionLog
from registry.key_form import masked
from serving.api import RouteResult
from serving.decision_options import DecisionOptions
from serving.past_bodies import DecisionRecord

_EVERY_S = 2.0
_CLOSE_S = 5.0
_MOST_WAITING = 2_000
_CHARACTERS = 2_000
_SCORES = 20
"""The highest that are kept of each decision's."""
_CROSSED_OUT = (
    (re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), "[address]"),
    (re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", re.IGNORECASE), "[link]"),
    (re.compile(r"\d"), "#"),
)
_LOG = logging.getLogger(__name__)


class DecisionRecorder:
    """One replica's; used on one event loop."""

    def __init__(self, log: DecisionLog, options: DecisionOptions) -> None:
        self._log, self._options = log, options
        self._waiting: list[dict[str, Any]] = []
        self._passed_over = 0
        self._failure: str | None = None
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def note(self, model: str, result: RouteResult, texts: Sequence[str | None]) -> None:
        """Have the decisions on one request kept, one a text; `model` is what it asked for."""
        if not self._options.keep or (self._options.share < 1 and random.random() >= self._options.share):
            return
        for decision, text in zip(result.decisions, texts, strict=True):
            if len(self._waiting) >= _MOST_WAITING:
                self._passed_over += 1
                continue
            highest = sorted(decision.scores.items(), key=lambda score: -score[1])[:_SCORES]
            record = DecisionRecord(
                at=time.time(),
                model=model,
                manifest=result.manifest,
                prompt=self._kept(text),
                decision=decision.model_copy(update={"scores": dict(highest)}),
            )
            self._waiting.append(record.model_dump(mode="json", exclude={"id"}))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="decisions")

    def trouble(self) -> str | None:
        """Say what is not kept; None where all is."""
        if self._failure is not None:
            return f"decisions are not kept: {self._failure}"
        if self._passed_over:
            return f"{self._passed_over} decisions came faster than they could be kept; lower serving.decisions.share"
        return None

    async def close(self) -> None:
        """Keep what waits, and end; what can't be written within seconds is lost."""
        self._closing.set()
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=_CLOSE_S)

    async def _write(self) -> None:
        """Write what comes until nothing does."""
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._closing.wait()
            batch = self._waiting[:]
            try:
                await asyncio.to_thread(self._log.put, batch)
            except Exception as error:
                if self._failure is None:
                    _LOG.warning("decisions are not kept: %s", error)
                self._failure = "the registry does not take them now"
                if self._closing.is_set():
                    return
                continue
            del self._waiting[: len(batch)]
            self._failure = None

    def _kept(self, text: str | None) -> str | None:
        if text is None or self._options.prompts == "none":
            return None
        text = masked(text[: 2 * _CHARACTERS])
        if self._options.prompts == "masked":
            for pattern, mark in _CROSSED_OUT:
                text = pattern.sub(mark, text)
        return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 3] + "..."
