"""A replica's life: it stands on the manifest in force, follows the directory's orders, and fences itself when cut off.

The engine, the scorer and the HTTP surface are `serving`'s; here is only the conversation with the directory.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from actors.directory import Order, Standing
from serving.errors import PrepareFailed
from serving.service import RoutedService


class DirectoryPort(Protocol):
    """What a replica needs of the directory."""

    async def next_order(self, replica: str, standing: Standing) -> Order: ...

    async def leave(self, replica: str) -> None: ...


class Replica:
    """One replica, named `name`, around a started `RoutedService`.

    `lease_seconds` is how long it serves on without hearing from the directory.
    """

    def __init__(
        self, name: str, service: RoutedService, directory: DirectoryPort, *, lease_seconds: float = 30.0
    ) -> None:
        self.name, self.service = name, service
        self._directory, self._lease = directory, lease_seconds
        self._standing = Standing(serves=self._serves())
        self._heard = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._confirmed = asyncio.Event()
        self.fatal: str | None = None
        """Why this replica must be replaced, or None."""

    async def join(self, timeout_seconds: float = 60.0) -> None:
        """Start following orders, and return once the directory has nothing more for it to catch up with."""
        self._task = asyncio.create_task(self._follow(), name=f"replica {self.name}")
        await asyncio.wait_for(self._confirmed.wait(), timeout_seconds)

    async def leave(self) -> None:
        """Leave the directory and stop the service."""
        if self._task is not None:
            self._task.cancel()
        await self._directory.leave(self.name)
        await self.service.stop()

    async def _follow(self) -> None:
        while self.fatal is None:
            try:
                order = await self._directory.next_order(self.name, self._standing)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if time.monotonic() - self._heard > self._lease:
                    self.service.fence(f"cut off from the directory for {self._lease:.0f} s: {error}")
                await asyncio.sleep(0.5)
                continue
            self._heard = time.monotonic()
            await self._obey(order)

    async def _obey(self, order: Order) -> None:
        match order.action:
            case "prepare":
                await self._prepare(order.number)
            case "commit":
                await self.service.commit(order.number)
                self._standing = Standing(serves=self._serves())
            case "fence":
                self.fatal = order.reason
                self.service.fence(order.reason)
            case "stay":
                if not self._confirmed.is_set() or self.service.fenced:
                    self.service.unfence()
                    self._confirmed.set()

    async def _prepare(self, number: int) -> None:
        try:
            await self.service.prepare(number)
        except PrepareFailed as error:
            self._standing = Standing(serves=self._serves(), failed=number, failure=str(error))
        else:
            self._standing = Standing(serves=self._serves(), prepared=number)

    def _serves(self) -> int:
        return self.service.manifest.number if self.service.manifest else 0
