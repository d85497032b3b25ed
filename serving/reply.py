"""An answer on its way out: what it says, who spoke, and the lease that ends with it. Knows no HTTP framework."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from serving.leases import Lease

EXPOSED = (
    *(f"x-anabranch-{name}" for name in ("domain", "adapter", "manifest", "base", "score", "abstained")),
    "retry-after",
)
"""Headers of answers that pages of other origins may read."""


class LeasedEvents:
    """Server-sent events of one request; its lease ends with the last event or with `aclose`, begun or not."""

    def __init__(self, events: AsyncGenerator[str, None], lease: Lease) -> None:
        self.events, self.lease = events, lease

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            return await anext(self.events)
        except BaseException:
            # The end, a failure or a cancellation: there is no next event after any of them.
            await self.aclose()
            raise

    async def aclose(self) -> None:
        try:
            await self.events.aclose()
        finally:
            self.lease.release()


@dataclass(frozen=True)
class Reply:
    """An answer and the headers that say who spoke. Exactly one of `body` and `events` is set.

    `events` must be iterated to their end or closed, even if never begun: that ends the request's lease.
    """

    headers: Mapping[str, str]
    body: dict[str, Any] | None = None
    events: LeasedEvents | None = None
