"""kafka-python's connections, made so that no failure is for ever and none is without its reason.

Each connection reads certificates and password anew; a handshake has a deadline, as the library waits without end for a
port that accepts and keeps quiet; one that is refused again and again is tried with growing pauses, which the library
forgets after a handshake that succeeded; and the last failure of each broker is kept, of which the library tells its
log alone. It does not know what a failure means (`kafka_trouble` does).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaTimeoutError, RequestTimedOutError
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.sasl import SaslMechanismPlain, SaslMechanismScram, register_sasl_mechanism
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport

from streaming.errors import StreamError
from streaming.kafka_options import MECHANISMS, KafkaOptions

_CUT_SHORT = (KafkaTimeoutError, RequestTimedOutError)


class _LastWords:
    """Hands on what was received before the end: the library drops it, and a broker says there why it hangs up."""

    def _sock_recv(self) -> tuple[bytes, Exception | None]:
        data, error = super()._sock_recv()  # type: ignore[misc]
        return data, None if data else error


class _PlainTransport(_LastWords, KafkaTCPTransport):  # type: ignore[misc]
    pass


class _SecureTransport(_LastWords, KafkaSSLTransport):  # type: ignore[misc]
    pass


class Connections(KafkaConnectionManager):  # type: ignore[misc]
    """One client's connections to its brokers; used on the library's I/O thread, but for `failure`."""

    def __init__(self, options: KafkaOptions, net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._options = options
        self._failures: dict[Any, Exception] = {}

    @property
    def failure(self) -> Exception | None:
        """Why a broker is not connected that should be; None where all is well, as far as was tried."""
        return next(reversed(list(self._failures.values())), None)

    async def _connect(
        self, node: Any, conn: Any, reset_backoff_on_connect: bool = True, timeout_at: float | None = None
    ) -> None:
        conn.close_future.add_errback(lambda error: self._note(node.node_id, error))
        paused = self._backoff.get(node.node_id)
        await super()._connect(node, conn, reset_backoff_on_connect=False, timeout_at=timeout_at)
        if not conn.connected:
            # A refused login is no error to the library's own `_connect`; a bootstrap sees to its own pauses.
            if not self.cluster.is_bootstrap(node.node_id) and self._backoff.get(node.node_id) == paused:
                self.update_backoff(node.node_id)
            return
        if reset_backoff_on_connect:
            self.reset_backoff(node.node_id)
        # That a bootstrap connection stands says little: its first request may be what the broker hangs up on.
        if not self.cluster.is_bootstrap(node.node_id):
            kept = self._failures.items()
            self._failures = {
                each: error for each, error in kept if each != node.node_id and not self.cluster.is_bootstrap(each)
            }

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        try:
            context = self._options.tls_context() if self.ssl_enabled else None
        except StreamError as error:
            raise KafkaConnectionError(str(error)) from error
        options = self.config["socket_options"]
        socket = await create_connection(self._net, node.host, node.port, options, timeout_at=timeout_at)
        if context is None:
            return _PlainTransport(self._net, socket, host=node.host)
        transport = _SecureTransport(self._net, socket, host=node.host, ssl_context=context)
        try:
            await self._shake_hands(transport._sock, timeout_at)
        except Exception as error:
            transport.abort(error)
            raise KafkaConnectionError(f"TLS handshake failed: {error}") from error
        return transport

    async def _shake_hands(self, socket: ssl.SSLSocket, timeout_at: float | None) -> None:
        while True:
            try:
                return socket.do_handshake()
            except ssl.SSLWantReadError:
                await self._net.wait_read(socket, timeout_at=timeout_at)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(socket, timeout_at=timeout_at)

    def _note(self, node_id: Any, error: Exception) -> None:
        # That one was given up says less than why the one before it failed.
        if isinstance(error, _CUT_SHORT) or "timed out" in str(error):
            self._failures.setdefault(node_id, error)
        else:
            self._failures.pop(node_id, None)
            self._failures[node_id] = error


def _asking(mechanism: Callable[..., Any]) -> Callable[..., Any]:
    """A login whose password is asked for when it begins, where it is given as a function."""

    def begun(**config: Any) -> Any:
        secret = config["sasl_plain_password"]
        if callable(secret):
            config["sasl_plain_password"] = secret()
        return mechanism(**config)

    return begun


for _name in MECHANISMS:
    _known = SaslMechanismPlain if _name == "PLAIN" else SaslMechanismScram
    register_sasl_mechanism(_name, _asking(_known), overwrite=True)
