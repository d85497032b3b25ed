"""Dead letters: records that could not be read, kept with the reason, to be looked at and replayed.

They lie in a topic of their own. A letter's origin (topic, partition, offset) names it: the same record put twice is
listed once. A replayed letter is marked by a further entry in that topic and no longer listed; if it fails again, it
comes back with its new origin. No letter stands in the way of another: one that can't be kept is counted, one that
can't be replayed is reported. This module does not decide what is unreadable (`wire` does).
"""

from __future__ import annotations

import builtins
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streaming.errors import EntryRefused, RecordError, StreamError
from streaming.letter import DeadLetter, LetterEntry, Origin, is_mark, letter_entry, read_letter, replayed_entry
from streaming.source import Envelope, RecordSink, RecordSource

__all__ = ["DeadLetter", "DeadLetters", "Replay", "Unsent"]

_POLL_RECORDS = 1_000
_SETTLE_S = 30.0
_REPLAY_BATCH = 100
_CUT = "it was cut to fit into a letter; send the record again from its origin"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unsent:
    """A letter that was not replayed and stays listed, and why."""

    letter: DeadLetter
    why: str

    def __str__(self) -> str:
        origin = f"{self.letter.topic}[{self.letter.partition}]@{self.letter.offset}"
        return f"{origin} not replayed: {self.why}"


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay did: how many letters were sent and marked, and which were not."""

    replayed: int
    unsent: tuple[Unsent, ...]


class DeadLetters:
    """Writes to a sink of the dead-letter topic, which it takes over and closes; `source` opens a reader of that topic
    from its beginning."""

    def __init__(self, sink: RecordSink, source: Callable[[], RecordSource]) -> None:
        self._sink = sink
        self._source = source
        self._lost = 0

    @property
    def lost(self) -> int:
        """How many letters this object could not keep, since it was made."""
        return self._lost

    def put(self, envelope: Envelope, error: RecordError) -> bool:
        """Keep this record; durable on return. As `put_all`; whether it was kept."""
        return self.put_all([(envelope, error)]) == 0

    def put_all(self, letters: Iterable[tuple[Envelope, RecordError]]) -> int:
        """Keep these records, cut to what the topic takes; durable on return, with one flush for all. Returns how many
        could not be kept, because the topic refuses them for good: each is logged with its origin and counted in
        `lost`. Raises StreamError for all other trouble, an outage above all: then put all of them again."""
        limit = self._sink.limits.entry_bytes
        written = [(envelope, letter_entry(envelope, error, limit)) for envelope, error in letters]
        try:
            self._write(entry for _, entry in written)
            return 0
        except EntryRefused:
            pass  # Which one it was is found by writing each alone; those already written are listed once all the same.
        lost = 0
        for envelope, entry in written:
            try:
                self._write([entry])
            except EntryRefused as error:
                lost += 1
                _log.warning("the dead letter of %s could not be kept and is lost: %s", envelope, error)
        self._lost += lost
        return lost

    def list(self) -> list[DeadLetter]:
        """The letters not yet replayed, oldest first, each origin once. Raises StreamError."""
        letters: dict[Origin, DeadLetter] = {}
        replayed: set[Origin] = set()
        for envelope in self._read():
            letter = read_letter(envelope)
            if letter is None:
                continue
            if is_mark(envelope):
                replayed.add(letter.origin)
            else:
                letters.setdefault(letter.origin, letter)
        return [letter for origin, letter in letters.items() if origin not in replayed]

    def replay(self, sink: RecordSink, mended: Mapping[Origin, str | None] | None = None) -> Replay:
        """Send the listed letters to `sink` as they were, oldest first, and mark them, a hundred at a time; with
        `mended` those alone, each with its text in the place of its value where one is given. A mended one has neither
        key nor headers of before, as these say how the value is to be read.

        One that was cut and is not mended, that has neither key nor value, that is too large for `sink` or that its log
        refuses is not sent and stays listed; the others are. Raises StreamError when the stream fails midway: what was
        marked until then is not sent again, the hundred on their way may be, which their ids undo.
        """
        listed = self.list()
        if mended is not None:
            listed = [_mended(each, mended[each.origin]) for each in listed if each.origin in mended]
        whole = [letter for letter in listed if letter.is_whole]
        unsent = [Unsent(letter, _CUT) for letter in listed if not letter.is_whole]
        for start in range(0, len(whole), _REPLAY_BATCH):
            unsent += self._replay(whole[start : start + _REPLAY_BATCH], sink)
        return Replay(len(listed) - len(unsent), tuple(unsent))

    def close(self) -> None:
        """Release everything. Twice is fine."""
        self._sink.close()

    def _replay(self, letters: Sequence[DeadLetter], sink: RecordSink) -> builtins.list[Unsent]:
        """Send and mark these; returns those that were refused. Which one a flush was refused for isn't said: then each
        is sent alone."""
        sent, unsent = [], []
        for letter in letters:
            try:
                sink.append_raw(letter.value, letter.headers, letter.key)
                sent.append(letter)
            except EntryRefused as error:
                unsent.append(Unsent(letter, str(error)))
        try:
            sink.flush()
        except EntryRefused as error:
            if len(sent) <= 1:
                return unsent + [Unsent(letter, str(error)) for letter in sent]
            return unsent + [each for letter in sent for each in self._replay([letter], sink)]
        now_ms = time.time_ns() // 1_000_000
        self._write(replayed_entry(letter, now_ms) for letter in sent)
        return unsent

    def _write(self, entries: Iterable[LetterEntry]) -> None:
        for entry in entries:
            self._sink.append_raw(*entry)
        self._sink.flush()

    def _read(self) -> builtins.list[Envelope]:
        """Everything in the topic up to its end as it is now."""
        source = self._source()
        try:
            found: list[Envelope] = []
            deadline = time.monotonic() + _SETTLE_S
            while time.monotonic() < deadline:
                polled = source.poll(0.2, _POLL_RECORDS)
                found += polled
                if polled:
                    deadline = time.monotonic() + _SETTLE_S
                lag = source.lag()
                if set(lag) == source.partitions() and not any(lag.values()):
                    return found
            raise StreamError(f"the dead letters could not be read to their end within {_SETTLE_S:.0f} s; try again")
        finally:
            source.close()


def _mended(letter: DeadLetter, text: str | None) -> DeadLetter:
    if text is None:
        return letter
    return replace(
        letter,
        key=None,
        value=text.encode(errors="replace"),
        headers=(),
        original_bytes=None,
        original_key_bytes=None,
        original_headers=None,
    )
