"""The errors of `streaming`: one root; a record that can't be used, an entry that a log will never take, a log that is
another one than before, a broker that can't be reached.

It does not know where a record came from: `RecordError` speaks of the record, the caller adds topic[partition]@offset.
"""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "undecodable",
    "too-large",
    "bad-domain",
    "empty-completion",
    "bad-record",
    "unknown-content-type",
    "unlabelled",
]
"""Stable slugs: they stand in dead-letter headers and in metric labels, so they are never reworded."""


class StreamError(Exception):
    """Root of this package's errors."""


class RecordError(StreamError):
    """A record that can't be decoded or validated. The stream goes on; the record belongs in the dead letters."""

    def __init__(self, reason: Reason, message: str) -> None:
        # Both arguments reach Exception.args, so the error survives being sent to another process.
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


class BrokerUnavailable(StreamError):
    """No usable session with the broker: unreachable, refused credentials, or no answer in time."""


class TopicMissing(StreamError):
    """The broker answers, and has no such topic."""


class EntryRefused(StreamError):
    """An entry that this log will never take: too large, with neither key nor value, or invalid to the broker. Others
    can still be written, and this one may be left out."""


class TooLarge(EntryRefused):
    """An entry beyond the limits of its sink, refused before anything was written; the message names sizes alone."""


class LogReplaced(StreamError):
    """The log is not the one that was read before: its identity differs, or it ends before where reading stood. The
    positions known belong to the old one, so nothing may be read by them."""
