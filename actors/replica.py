"""A replica's life: it stands on the manifest in force, follows the directory's orders, and fences itself when cut off.

The engine, the scorer and the HTTP surface are `serving`'s; here is only the conversation with the directory.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from actors.directory import Order, Standing
from actors.errors import PublicationFailed
from serving.service import RoutedService


class DirectoryPort(Protocol):
    """What a replica needs of the directory."""

    async def next_order(self, replica: str, standing: Standing, wait_seconds: float) -> Order: ...

    async def leave(self, replica: str) -> None: ...


class Replica:
    """One replica, named `name`, around a started `RoutedService`.

    `lease_seconds` is how long it serves on without hearing from the directory. It counts from when a question was
    sent, so it ends before the directory's own lease of the same length, and an answer that never comes counts as none.
    """

    def __init__(
        self, name: str, service: RoutedService, directory: DirectoryPort, *, lease_seconds: float = 30.0
    ) -> None:
        self.name, self.service = name, service
        self._directory, self._lease = directory, lease_seconds
        self._beat = min(2.0, lease_seconds / 4)
        self._standing = Standing(serves=self._serves())
        self._heard = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.fatal: str | None = None
        """Why this replica must be replaced, or None."""

    async def join(self, timeout_seconds: float = 60.0) -> None:
        """Start following orders, and return once the directory has nothing more for it to catch up with.

        Raises `TimeoutError` when that takes too long, and `PublicationFailed` when it can't be done.
        """
        self._task = asyncio.create_task(self._follow(), name=f"replica {self.name}")
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._settled.wait()
        except BaseException:
            # Whoever gives up on it must not leave it in the directory, to be waited for.
            self._task.cancel()
            raise
        if self.fatal is not None:
            raise PublicationFailed(f"replica {self.name} can't serve the manifest in force: {self.fatal}")

    async def leave(self) -> None:
        """Leave the directory and stop the service."""
        for task in (self._task, self._preparing):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        try:
            await self._directory.leave(self.name)
        finally:
            await self.service.stop()

    async def _follow(self) -> None:
        trouble: str | None = None
        while self.fatal is None:
            if self._preparing is not None:
                # A long preparation is no silence: the directory hears of it meanwhile.
                await asyncio.wait({self._preparing}, timeout=self._beat)
            asked, left = time.monotonic(), self._left()
            if left <= 0:
                self.service.fence(f"cut off from the directory for {self._lease:g} s: {trouble}")
            # Who is in trouble or busy asks for an answer at once; the others for one when there is something to do.
            wait = 0.0 if trouble or self._is_busy() else self._beat
            patience = min(left, self._lease / 2) if left > 0 else self._lease / 2
            try:
                # Not wait_for: it may swallow the cancellation by which `leave` ends this loop.
                async with asyncio.timeout(patience):
                    order = await self._directory.next_order(self.name, self._standing, wait)
            except Exception as error:
                trouble = str(error) or type(error).__name__
                left = self._left()
                await asyncio.sleep(min(self._beat, 0.5, left) if left > 0 else min(self._beat, 0.5))
                continue
            trouble, self._heard = None, asked
            await self._obey(order)

    def _left(self) -> float:
        """Return the seconds it may serve on without an answer."""
        return self._heard + self._lease - time.monotonic()

    def _is_busy(self) -> bool:
        return self._preparing is not None and not self._preparing.done()

    async def _obey(self, order: Order) -> None:
        match order.action:
            case "prepare" if not self._is_busy():
                self._standing = Standing(serves=self._serves(), preparing=order.number)
                self._preparing = asyncio.create_task(self._prepare(order.number))
            case "commit":
                await self._commit(order.number)
            case "fence":
                self._give_up(order.reason)
            case "stay" if not self._is_busy() and (not self._settled.is_set() or self.service.fenced):
                self.service.unfence()
                self._settled.set()

    async def _prepare(self, number: int) -> None:
        try:
            await self.service.prepare(number)
        except Exception as error:
            # Whatever it was, this replica serves on as it was; the directory decides what follows.
            self._standing = Standing(serves=self._serves(), failed=number, failure=str(error) or repr(error))
        else:
            self._standing = Standing(serves=self._serves(), prepared=number)

    async def _commit(self, number: int) -> None:
        try:
            await self.service.commit(number)
        except Exception as error:
            self._give_up(f"manifest {number} was prepared but could not be committed: {error}")
        else:
            self._standing = Standing(serves=self._serves())

    def _give_up(self, reason: str) -> None:
        self.fatal = reason
        self.service.fence(reason)
        self._settled.set()

    def _serves(self) -> int:
        return self.service.manifest.number if self.service.manifest else 0
