"""Decoding: from what was polled to rows and markers for the spool, and letters of what can't be used.

One record never keeps back the others of its poll, whatever is wrong with it. What is wrong with this worker instead (a
template that renders nothing, memory, a disk) is raised, to be tried again: it would make letters of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from actors.errors import in_words
from actors.exam import is_held_out
from actors.observation import Marker
from actors.observer import Letter
from actors.packs import SpooledRow
from learning.errors import LearningError
from learning.template import PromptTemplate
from streaming.errors import RecordError
from streaming.plain_records import PlainRecord
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, TopicPartition
from streaming.wire import decode, plain_reader

# One object for all records of a partition.
_partition = lru_cache(1_024)(TopicPartition)


class Decoding:
    """By a template, records of at most `max_record_bytes`, of which a share `held_out_fraction` is held out."""

    def __init__(self, template: PromptTemplate, max_record_bytes: int, held_out_fraction: float) -> None:
        self._template, self._max_bytes, self._held_out = template, max_record_bytes, held_out_fraction

    def decode(self, envelopes: Sequence[Envelope]) -> tuple[list[SpooledRow], list[Marker], list[Letter]]:
        """Return the rows, the markers and the letters that these become."""
        rows: list[SpooledRow] = []
        markers: list[Marker] = []
        letters: list[Letter] = []
        headers, read = None, None
        for envelope in envelopes:
            partition, value = _partition(envelope.topic, envelope.partition), envelope.value
            try:
                if envelope.headers is not headers:  # Mostly they are those of the record before.
                    headers, read = envelope.headers, plain_reader(envelope.headers)
                if read is not None and value is not None and len(value) <= self._max_bytes:
                    plain = read(value)
                    if plain is not None:
                        rows.append(self._row(envelope, partition, plain))
                        continue
                record = decode(value, envelope.headers, max_bytes=self._max_bytes)
                if isinstance(record, EndOfDomain):
                    markers.append(Marker(partition, envelope.offset, record.domain))
                else:
                    rows.append(self._row(envelope, partition, record))
            except RecordError as error:
                letters.append((envelope, error))
            except Exception as error:
                self._check_rendering(error)
                letters.append((envelope, RecordError("bad-record", f"it can't be taken: {in_words(error)}")))
        return rows, markers, letters

    def _check_rendering(self, error: Exception) -> None:
        """Raise an unforeseen error that is not the record's fault."""
        if isinstance(error, (MemoryError, OSError)):
            raise error
        self._template.render([{"role": "user", "content": "a"}])

    def _row(self, envelope: Envelope, partition: TopicPartition, record: TaskRecord | PlainRecord) -> SpooledRow:
        if record.domain is None:
            raise RecordError(
                "unlabelled",
                f"record {record.id!r} has no domain: learning needs a labelled example; "
                "set `domain` and send it again, or replay it once it is labelled",
            )
        prompt = self._render(record)
        # What can't be encoded can't be spooled, and would take the others of its poll with it.
        record_id, completion = record.id, record.completion
        if not (prompt.isascii() and completion.isascii() and record_id.isascii()):
            (prompt + completion + record_id).encode()
        held_out = is_held_out(record, self._held_out)
        return SpooledRow(partition, envelope.offset, record.domain, record_id, held_out, prompt, completion)

    def _render(self, record: TaskRecord | PlainRecord) -> str:
        """Return the prompt as it will be featured and trained; what can't be rendered is refused at the border."""
        try:
            rendered = self._template.render(record.prompt or record.messages_or_prompt())
        except LearningError as error:
            raise RecordError("bad-record", f"record {record.id!r}: the chat template refuses it: {error}") from error
        if not rendered or rendered.isspace():
            raise RecordError("bad-record", f"record {record.id!r}: its prompt is empty once it is rendered")
        return rendered
