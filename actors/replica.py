"""A replica's life: it follows the directory's directives, and the registry alone while it can't hear the directory.

A directory that is away stops publications, not requests: a replica that is cut off serves on, says that it is cut off,
and goes by itself to whatever manifest is in force by the registry, as a replica that starts does. So being cut off
alone does not leave it behind, and every answer is still wholly from the one manifest that it names.

The engine, the scorer and the HTTP surface are `serving`'s; here is only the conversation with the directory.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from actors.directive import Directive, Standing
from actors.errors import PublicationFailed, in_words
from actors.ports import DirectivesPort, ServicePort


class Replica:
    """One replica, named `name`, around a started service that takes requests at `address`.

    Without an answer from the directory for `silence_seconds` it is cut off. They count from when a question was sent,
    so they end before the directory's own of the same length, and an answer that never comes counts as none.
    """

    def __init__(
        self,
        name: str,
        service: ServicePort,
        directory: DirectivesPort,
        address: str = "",
        *,
        silence_seconds: float = 30.0,
    ) -> None:
        self.name, self.service = name, service
        self._directory, self._address, self._silence = directory, address, silence_seconds
        self._beat = min(2.0, silence_seconds / 4)
        self._standing = Standing(serves=self._serves())
        self._heard = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.fatal: str | None = None
        """Why this replica must be replaced, or None."""

    async def join(self, timeout_seconds: float = 60.0) -> None:
        """Start following directives, and return once the directory has nothing more for it to catch up with.

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
        failing = False
        while self.fatal is None:
            if self._preparing is not None:
                # A long preparation is no silence: the directory hears of it meanwhile.
                await asyncio.wait({self._preparing}, timeout=self._beat)
            asked = time.monotonic()
            # Who is in trouble or busy asks for an answer at once; the others for one when there is something to do.
            wait = 0.0 if failing or self._is_busy() else self._beat
            standing = replace(self._standing, address=self._address, used=self.service.used)
            try:
                # Not wait_for: it may swallow the cancellation by which `leave` ends this loop.
                async with asyncio.timeout(self._silence / 2):
                    directive = await self._directory.next_directive(self.name, standing, wait)
            except Exception as error:
                failing = True
                if time.monotonic() - self._heard >= self._silence:
                    self._go_alone(in_words(error))
                await asyncio.sleep(min(self._beat, 0.5))
                continue
            failing, self._heard, self.service.trouble = False, asked, None
            if self.fatal is None:
                # What was prepared meanwhile may have broken it.
                await self._obey(directive)

    def _go_alone(self, why: str) -> None:
        """Serve on without the directory, and go to the manifest in force by the registry."""
        trouble = f"no answer from the replica directory for {self._silence:g} s ({why})"
        self.service.trouble = f"{trouble}; serving manifest {self._serves()} meanwhile"
        if not self._is_busy():
            self._preparing = asyncio.create_task(self._catch_up(trouble))

    async def _catch_up(self, trouble: str) -> None:
        try:
            await self.service.catch_up()
        except Exception as error:
            if self.service.fenced:
                # No directive may open again what can take neither base.
                self._give_up(in_words(error))
                return
            self.service.trouble = (
                f"{trouble}; serving manifest {self._serves()}, the one in force can't be taken: {in_words(error)}"
            )
        self._standing = Standing(serves=self._serves())

    def _is_busy(self) -> bool:
        return self._preparing is not None and not self._preparing.done()

    async def _obey(self, directive: Directive) -> None:
        match directive.action:
            case "prepare" if not self._is_busy():
                self._standing = Standing(serves=self._serves(), preparing=directive.number)
                self._preparing = asyncio.create_task(self._prepare(directive.number))
            case "commit" if not self._is_busy():
                # Who was cut off and catches up by itself may be beyond it already, and says so when that is done.
                await self._commit(directive.number)
            case "fence":
                self._give_up(directive.reason)
            case "stay" if not self._is_busy() and (not self._settled.is_set() or self.service.fenced):
                self.service.unfence()
                self._settled.set()

    async def _prepare(self, number: int) -> None:
        try:
            await self.service.prepare(number)
        except Exception as error:
            if self.service.fenced:
                self._give_up(in_words(error))
                return
            # Whatever it was, this replica serves on as it was; the directory decides what follows.
            self._standing = Standing(serves=self._serves(), failed=number, failure=in_words(error))
        else:
            # On another base it serves it by now: there is no standing prepared beside it.
            serves = self._serves()
            self._standing = Standing(serves=serves, prepared=None if serves == number else number)

    async def _commit(self, number: int) -> None:
        try:
            await self.service.commit(number)
        except Exception as error:
            self._give_up(f"manifest {number} was prepared but could not be committed: {in_words(error)}")
        else:
            self._standing = Standing(serves=self._serves())

    def _give_up(self, reason: str) -> None:
        self.fatal = reason
        self.service.fence(reason)
        self._settled.set()

    def _serves(self) -> int:
        return self.service.manifest.number if self.service.manifest else 0
