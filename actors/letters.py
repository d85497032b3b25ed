"""The front door's way to the dead letters: one look or replay at a time, beside the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.errors import ControlUnavailable
from serving.past_bodies import Letter, LetterChoice, ReplayResult
from streaming.dead_letters import DeadLetters
from streaming.errors import StreamError
from streaming.letter import DeadLetter
from streaming.source import RecordSink

T = TypeVar("T")

_TEXT_BYTES = 64 << 10
_TOLD = 100

_log = logging.getLogger(__name__)


class LetterDesk:
    """Over the letters that `open_letters` opens; mended ones go where `open_sink` leads."""

    def __init__(self, open_letters: Callable[[], DeadLetters], open_sink: Callable[[], RecordSink]) -> None:
        self._open_letters, self._open_sink = open_letters, open_sink
        # One thread: two replays at once would both send what neither has marked yet.
        self._working = ThreadPoolExecutor(max_workers=1, thread_name_prefix="letters")

    async def list(self) -> tuple[Letter, ...]:
        """Return those not replayed, oldest first. Raises `ControlUnavailable` where the stream can't be read."""
        return await self._with(lambda letters: tuple(map(_told, letters.list())))

    async def replay(self, chosen: Sequence[LetterChoice] | None) -> ReplayResult:
        """Send these again, None for all. Raises `ControlUnavailable` where the stream does not take them now; what was
        marked until then is not sent again."""

        def work(letters: DeadLetters) -> ReplayResult:
            sink = self._open_sink()
            try:
                mended = None if chosen is None else {(c.topic, c.partition, c.offset): c.text for c in chosen}
                done = letters.replay(sink, mended)
            finally:
                sink.close()
            return ReplayResult(replayed=done.replayed, kept=tuple(map(str, done.unsent[:_TOLD])))

        return await self._with(work)

    async def _with(self, work: Callable[[DeadLetters], T]) -> T:
        def opened() -> T:
            letters = self._open_letters()
            try:
                return work(letters)
            finally:
                letters.close()

        try:
            return await asyncio.get_running_loop().run_in_executor(self._working, opened)
        except StreamError as error:
            # The cause names addresses and paths: it is for the log, not for clients.
            _log.warning("the dead letters can't be reached: %s", error)
            raise ControlUnavailable("the dead letters can't be reached now; try again in a moment") from error


def _told(letter: DeadLetter) -> Letter:
    value = letter.value
    return Letter(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        reason=letter.reason,
        detail=letter.detail,
        at=letter.recorded_at_ms / 1000,
        text=None if value is None else value[:_TEXT_BYTES].decode(errors="replace"),
        bytes=letter.original_bytes or len(value or b""),
        whole=letter.is_whole,
    )
