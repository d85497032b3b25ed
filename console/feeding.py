"""Feeding records through the front door, in requests of bounded size. A stream's own sink needs nothing of this."""

from __future__ import annotations

from collections.abc import Sequence

from console.client import Client
from streaming.records import EndOfDomain, TaskRecord

_BATCH = 500


def post_all(client: Client, records: Sequence[TaskRecord | EndOfDomain]) -> None:
    """Send records in order; each request is durable when it returns. Raises `ClusterError`."""
    for start in range(0, len(records), _BATCH):
        client.post("/v1/records", [record.to_mapping() for record in records[start : start + _BATCH]])
