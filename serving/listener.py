"""A replica's own HTTP server, in its process and on the loop of its engine: nothing between socket and application.

It knows the application and where it listens; not who sends requests there.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time

import uvicorn
from starlette.types import ASGIApp

from serving.errors import ServingError

_IDLE_S = 600
"""Seconds for which an idle connection stays: longer than who holds it keeps it, so nothing is sent into its end."""


class Listener:
    """Made by `start`; `address` is where it listens."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        self._socket = listening
        host, port, *_ = listening.getsockname()
        self.address = f"{host}:{port}"
        # Who is before it says for whom it asks.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=_IDLE_S,
            forwarded_allow_ips="*",
            server_header=False,
            backlog=2048,
        )
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve([self._socket]), name=f"listener {self.address}")

    @classmethod
    async def start(cls, app: ASGIApp, host: str, port: int = 0, patience_seconds: float = 60.0) -> Listener:
        """Listen on an address of this machine; port 0 is a free one. The one before it may still be leaving another:
        that is waited for. Raises `ServingError`."""
        ends = time.monotonic() + patience_seconds
        while True:
            listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((host, port))
                return cls(app, listening)
            except OSError as error:
                listening.close()
                if time.monotonic() > ends or error.errno != errno.EADDRINUSE:
                    raise ServingError(
                        f"serving.replica_port {port}: this replica can't listen there ({error.strerror}); free it, "
                        "choose another, or 0 for any"
                    ) from error
            await asyncio.sleep(0.25)

    @property
    def in_flight(self) -> int:
        """How many requests have been taken and not ended."""
        return len(self._server.server_state.tasks)

    async def asked(self, seconds: float) -> None:
        """Return when one more request has been answered, such as a health check, or so many seconds later."""
        before, ends = self._server.server_state.total_requests, time.monotonic() + seconds
        while self._server.server_state.total_requests == before and time.monotonic() < ends:
            await asyncio.sleep(0.02)

    async def close(self, seconds: float) -> None:
        """Take no more, and return when those in flight have ended; what takes longer than `seconds` is cut off."""
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._serving}, timeout=seconds)
        if not done:
            for connection in tuple(self._server.server_state.connections):
                connection.transport.abort()
            self._server.force_exit = True
            await asyncio.wait({self._serving}, timeout=5)
        self._socket.close()
