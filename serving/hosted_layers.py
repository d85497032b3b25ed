"""The router's lower layers in the engine's worker: on its device, in its context, beside its steps.

    replica: tokens -> standardise, expand, score          worker: a thread with a stream of its own -> pooled rows
                        \\-------- a socket of the owner's alone --------/

A replica with layers of its own on the engine's GPU has a second context there. Here token ids go to the worker, and
one row a text comes back. The engine's steps wait for nothing: the thread asks the device beside them. The layers are
of the router's own precision, which the engine's need not be. Knows no request and no router.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.balancer import short_folder
from serving.errors import Unavailable

if TYPE_CHECKING:
    from learning.feature_options import FeatureOptions
    from learning.pooled_layers import PooledLayers
    from learning.symmetric import Float64

_START_S = 600.0
"""For an engine to start."""
_PAUSE_S = 0.01
_LOG = logging.getLogger(__name__)


class Hosting(NamedTuple):
    """What a worker is told: where to listen, the secret of who may ask, and the model with the options of its
    features."""

    address: str
    secret: str
    folder: str
    options: Mapping[str, Any]


class HostedLayers:
    """The replica's side, a `TokenPooling`: it waits for `begun`. Safe to use from several threads.

    `folder` is the model's. A worker that is gone raises `Unavailable`, and so does one that could not load the layers.
    """

    def __init__(self, folder: Path, options: FeatureOptions) -> None:
        self._at = tempfile.mkdtemp(prefix="anabranch-layers-", dir=short_folder())
        self.hosting = Hosting(
            f"{self._at}/layers.sock", secrets.token_hex(32), str(folder), options.model_dump(mode="json")
        )
        self._begun, self._asking = threading.Event(), threading.Lock()
        self._connection: Connection[Any, Any] | None = None
        self._about: tuple[int, list[Any]] | None = None

    def begun(self) -> None:
        """A worker listens from now on."""
        self._begun.set()

    @property
    def width(self) -> int:
        return self._told_about()[0]

    @property
    def identity(self) -> list[Any]:
        return self._told_about()[1]

    def pooled(self, tokens: Sequence[list[int]], padding: int) -> Float64:
        """As `TokenPooling` has it. Raises `MemoryError` where the worker's device has no room for it."""
        rows: Float64 = self._ask((list(tokens), padding))
        return rows

    def close(self) -> None:
        """Ask no more; the worker has ended."""
        with self._asking:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        # Without its socket, which the worker takes along.
        with suppress(OSError):
            os.rmdir(self._at)

    def _told_about(self) -> tuple[int, list[Any]]:
        if self._about is None:
            self._about = self._ask(None)
        return self._about

    def _ask(self, question: tuple[list[list[int]], int] | None) -> Any:
        if not self._begun.wait(_START_S):
            raise Unavailable("no engine has begun to host the router's layers")
        with self._asking:
            try:
                if self._connection is None:
                    self._connection = Client(self.hosting.address, "AF_UNIX", self.hosting.secret.encode())
                self._connection.send(question)
                answer, error = self._connection.recv()
            except (OSError, EOFError) as gone:
                self._connection = None
                raise Unavailable(f"the engine's worker does not answer for the router's layers: {gone!r}") from gone
        if error is None:
            return answer
        raise error


def host(hosting: Hosting) -> threading.Thread:
    """Listen from now on, in a thread of this process that ends with it; the layers are loaded there."""
    listener = Listener(hosting.address, "AF_UNIX", backlog=4, authkey=hosting.secret.encode())
    thread = threading.Thread(target=_serve, args=(listener, hosting), name="router layers", daemon=True)
    thread.start()
    return thread


def _serve(listener: Listener, hosting: Hosting) -> None:
    import torch

    from learning.feature_options import FeatureOptions
    from learning.pooled_layers import PooledLayers

    layers: PooledLayers | None = None
    trouble: Exception | None = None
    device = torch.device(hosting.options["device"])
    stream: Any = nullcontext()
    if device.type == "cuda":
        # Its own, so that neither waits in the other's.
        stream = torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    with stream:
        try:
            layers = PooledLayers(Path(hosting.folder), FeatureOptions(**hosting.options))
        except Exception as error:
            _LOG.error("the router's layers can't be loaded", exc_info=error)
            trouble = Unavailable(f"the router's layers can't be loaded in the engine's worker: {error}")
        while True:
            try:
                with listener.accept() as connection:
                    _answer(connection, layers, trouble)
            except Exception as error:
                # Whoever asked has left, or is a stranger; the next may ask.
                _LOG.info("a connection to the router's layers ended: %r", error)
                time.sleep(_PAUSE_S)


def _answer(connection: Connection[Any, Any], layers: PooledLayers | None, trouble: Exception | None) -> None:
    while True:
        question = connection.recv()
        if layers is None:
            connection.send((None, trouble))
            continue
        try:
            told = (layers.width, layers.identity) if question is None else layers.pooled(*question)
        except MemoryError as error:
            connection.send((None, MemoryError(str(error))))
        except Exception as error:
            connection.send((None, Unavailable(f"the router's layers failed: {error}")))
        else:
            connection.send((told, None))
