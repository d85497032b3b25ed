"""The front door's way into the stream: all records of a request or none, and an answer within seconds.

It does not know which stream it is, nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from serving.errors import ControlUnavailable, InvalidRecord, Refused
from serving.openai_body import error_body
from streaming.errors import EntryRefused, RecordError, StreamError, TooLarge
from streaming.records import EndOfDomain, TaskRecord, from_mapping
from streaming.source import RecordSink

_AWAY = "the stream does not take records now"
_SEND_AGAIN = (
    "some of these may have been written; send all of them again in a moment, which is safe: a record with the same id,"
    " or without one with the same content, counts once"
)

_log = logging.getLogger(__name__)


def read_record(value: dict[str, Any]) -> TaskRecord | EndOfDomain:
    """Return the record or marker in a JSON object; raises `InvalidRecord` saying what is wrong with it."""
    try:
        record = from_mapping(value)
    except RecordError as error:
        raise InvalidRecord(str(error)) from error
    if isinstance(record, TaskRecord) and record.domain is None:
        raise InvalidRecord(f"record {record.id!r} has no domain: learning needs a labelled example")
    return record


def read_records(values: list[dict[str, Any]]) -> list[TaskRecord | EndOfDomain]:
    """Return the records in a list of JSON objects; raises `InvalidRecord` naming the first that is wrong."""
    records = []
    for place, value in enumerate(values):
        try:
            records.append(read_record(value))
        except InvalidRecord as error:
            raise InvalidRecord(
                f"number {place + 1} of {len(values)}: {error}" if len(values) > 1 else str(error)
            ) from error
    return records


class Intake:
    """Appends to the stream that `open_sink` opens, again whenever it was away."""

    def __init__(self, open_sink: Callable[[], RecordSink]) -> None:
        self._open_sink = open_sink
        self._sink: RecordSink | None = None
        # One thread: a sink is used by one at a time, also when the client of an append has gone away meanwhile.
        self._appending = ThreadPoolExecutor(max_workers=1, thread_name_prefix="append")
        self._away_at = 0.0

    async def append(self, records: list[dict[str, Any]]) -> list[str]:
        """Append records to the stream, durably; all of them are checked, sizes too, before the first is written.

        Raises `InvalidRecord` for a record that can't be read, `Refused` (413) for one that is too large, and
        `ControlUnavailable` within seconds where the stream does not take them now.
        """
        read = await asyncio.to_thread(read_records, records)
        asked_at = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._appending, self._append_now, read, asked_at)
        return [record.id if isinstance(record, TaskRecord) else record.domain for record in read]

    def _append_now(self, records: list[TaskRecord | EndOfDomain], asked_at: float) -> None:
        if self._away_at > asked_at:
            # An append before this one waited for the stream in vain, when this one had been asked for already.
            raise ControlUnavailable(f"{_AWAY}; nothing was written, send again in a moment")
        try:
            if self._sink is None:
                self._sink = self._open_sink()
            self._sink.append_all(records)
        except TooLarge as error:
            raise Refused(413, error_body(str(error), "RequestEntityTooLargeError", 413)) from error
        except EntryRefused as error:
            _log.warning("the stream refuses records for good: %s", error)
            raise InvalidRecord("the stream refuses these records for good; its operator's log says why") from error
        except StreamError as error:
            # The cause names addresses and paths: it is for the log, not for clients.
            _log.warning("appending to the stream failed: %s", error)
            self._away_at = time.monotonic()
            self._drop_sink()
            raise ControlUnavailable(f"{_AWAY}; {_SEND_AGAIN}") from error

    def _drop_sink(self) -> None:
        """Let the next append open the stream anew: it may have been made again, elsewhere or otherwise."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with suppress(StreamError):
                sink.close()
