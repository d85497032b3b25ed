"""What ingest tells the router, and what the router answers.

An observation claims a span of offsets of each partition it covers. The router applies it only when every span starts
at its own watermark and no example in it was counted before: that makes the sums exact under duplication, retry and
crash, although adding to a Gram matrix is not idempotent. This module knows no storage and no transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from learning.statistics import Statistics
from streaming.source import TopicPartition

Watermarks = Mapping[TopicPartition, int]
"""Next offset not yet applied, by partition."""


def example_digest(domain: str, record_id: str) -> bytes:
    """Return the 16 bytes by which an example is known: same domain and id, same example."""
    return blake2b(f"{domain}\0{record_id}".encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Observation:
    """A block of the stream, turned into sums.

    `spans` maps each covered partition to `(start, end)`, end exclusive. `digests` names every example of the block by
    domain, held-out ones included; `statistics` holds the training rows, or None when the block has none.
    """

    spans: Mapping[TopicPartition, tuple[int, int]]
    digests: Mapping[str, tuple[bytes, ...]]
    statistics: Statistics | None


@dataclass(frozen=True)
class Receipt:
    """The router's answer: whether it applied the block, where it stands, and which examples it knew already.

    When `applied` is false, either a span did not start at the watermark (cut the block anew from `watermarks`) or
    `duplicates` names examples to leave out.
    """

    applied: bool
    watermarks: Watermarks
    duplicates: frozenset[bytes] = field(default_factory=frozenset)
