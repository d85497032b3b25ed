"""The actors' names within the cluster: peers find each other by these, also after a restart."""

from __future__ import annotations

NAMESPACE = "anabranch"
DIRECTORY = "directory"
METER = "meter"
ROUTER = "router"
COORDINATOR = "coordinator"


def ingest(index: int) -> str:
    """Name of ingest worker `index`."""
    return f"ingest-{index}"


def learner(index: int) -> str:
    """Name of learner worker `index`."""
    return f"learner-{index}"
