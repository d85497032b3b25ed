"""What every Kafka client here shares: its options, its errors in plain words, and the making of topics.

kafka-python reports a refused password as a time-out of its bootstrap and tells the cause only to its log. So its log
is listened to while a client is being built, and what it said becomes part of the error; afterwards one line a minute
of it is passed on. It does not know records.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    TopicAlreadyExistsError,
)

from streaming.errors import BrokerUnavailable, StreamError

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_PROBE_S = 1.0
_MURMUR_S = 60

_log = logging.getLogger(__name__)

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to talk to the brokers at `bootstrap` ("host:port,host:port").

    Times are in milliseconds. `bootstrap_timeout_ms`: until BrokerUnavailable is raised; `session_timeout_ms`: a member
    silent for this long loses its partitions; `max_poll_interval_ms`: so does one that hasn't polled for this long;
    `delivery_timeout_ms`: how long an append is retried, so which outage a flush survives; `max_request_bytes`: the
    largest record sent, within what the topic accepts. Raises StreamError where the options contradict each other.
    """

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000
    delivery_timeout_ms: int = 60_000
    bootstrap_timeout_ms: int = 7_000
    max_request_bytes: int = 1_048_576
    client_id: str = "anabranch"

    def __post_init__(self) -> None:
        if self.security_protocol not in _PROTOCOLS:
            raise StreamError(
                f"unknown security_protocol {self.security_protocol!r}: expected one of {', '.join(_PROTOCOLS)}"
            )
        if not self.uses_sasl:
            return
        if self.sasl_mechanism not in _MECHANISMS:
            raise StreamError(
                f"{self.security_protocol} needs a sasl_mechanism, one of {', '.join(_MECHANISMS)};"
                f" got {self.sasl_mechanism!r}"
            )
        if not self.sasl_username or not self.sasl_password:
            raise StreamError(
                f"{self.security_protocol} with {self.sasl_mechanism} needs a user name and a password; give both"
            )

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    def client_settings(self) -> dict[str, Any]:
        """The settings that kafka-python's consumer, producer and admin client share."""
        settings: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": self.bootstrap_timeout_ms,
            # A broker that comes back is found within a second, not within the library's thirty.
            "reconnect_backoff_max_ms": 1_000,
        }
        if self.uses_sasl:
            settings["sasl_mechanism"] = self.sasl_mechanism
            settings["sasl_plain_username"] = self.sasl_username
            settings["sasl_plain_password"] = self.sasl_password
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if getattr(self, name) is not None:
                settings[name] = getattr(self, name)
        return settings

    def __str__(self) -> str:
        login = f", {self.sasl_mechanism} as {self.sasl_username!r}" if self.uses_sasl else ""
        return f"Kafka at {self.bootstrap} ({self.security_protocol}{login})"


def build(kind: Callable[..., Client], options: KafkaOptions, **settings: Any) -> Client:
    """A kafka-python client with a session. Raises BrokerUnavailable with the likely cause, within ten seconds."""
    _hush()
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        file = getattr(options, name)
        if file is not None and not Path(file).is_file():
            raise StreamError(f"{options}: {name} {file!r} is no file; correct the path")
    network: list[Any] = []

    def network_client(**configuration: Any) -> Any:
        network.append(kind.DEFAULT_CONFIG["kafka_client"](**configuration))  # type: ignore[attr-defined]
        return network[-1]

    last_words = _LastWords()
    connections = logging.getLogger("kafka.net.connection")
    connections.addHandler(last_words)
    _murmur.held += 1
    try:
        return kind(**options.client_settings(), kafka_client=network_client, **settings)
    except BaseException as error:
        # The constructor leaves the I/O thread of its network client running.
        for each in network:
            each.close()
        if isinstance(error, KafkaConfigurationError | OSError | ValueError):
            raise StreamError(f"{options}: the settings are refused: {error}") from error
        if isinstance(error, KafkaError):
            raise _unavailable(options, last_words.text or str(error)) from error
        raise
    finally:
        _murmur.held -= 1
        connections.removeHandler(last_words)


@contextmanager
def plain_errors(options: KafkaOptions, doing: str) -> Iterator[None]:
    """Turn kafka-python's errors into this package's: what was being done, where, what came back, what to do."""
    try:
        yield
    except AuthorizationError as error:
        raise StreamError(f"{doing}: {options} refuses it: {error}; grant this user the right (ACL)") from error
    except (KafkaTimeoutError, KafkaConnectionError, NodeNotReadyError) as error:
        raise BrokerUnavailable(f"{doing}: no answer from {options}: {error}; see whether the broker is up") from error
    except KafkaError as error:
        raise StreamError(f"{doing}: {options} answered: {error}") from error


def check_session(options: KafkaOptions) -> int:
    """One metadata call: the number of topics. Raises BrokerUnavailable."""
    admin = build(KafkaAdminClient, options)
    try:
        with plain_errors(options, "listing the topics"):
            return len(admin.list_topics())
    finally:
        admin.close()


def ensure_topic(options: KafkaOptions, topic: str, partitions: int) -> int:
    """Create the topic if it is missing, with the broker's default replication. Returns the number of partitions it
    has, which stays as it was created: more of them would send a resent record elsewhere than its twin."""
    if partitions < 1:
        raise StreamError(f"topic {topic!r}: expected at least 1 partition, got {partitions}")
    admin = build(KafkaAdminClient, options)
    try:
        with plain_errors(options, f"creating topic {topic!r}"):
            known = _partition_count(admin, topic)
            if known:
                return known
            # Suppressed: another process was first; then its number counts.
            with suppress(TopicAlreadyExistsError):
                admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": -1}})
            admin.wait_for_topics([topic])
            return _partition_count(admin, topic)
    finally:
        admin.close()


def _partition_count(admin: KafkaAdminClient, topic: str) -> int:
    described = admin.describe_topics([topic])
    return max((len(each["partitions"]) for each in described if each["error_code"] == 0), default=0)


class _Murmur(logging.Handler):
    """Passes on one of kafka-python's error lines a minute: an outage is ten a second, and all say the same.

    Lines are `held` back altogether while a client is being built, where an error is raised instead.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.held = 0
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if not self.held and now >= self._next:
            self._next = now + _MURMUR_S
            text = " ".join(record.getMessage().split())[:300]
            _log.warning("kafka-python keeps trying: %s (more of these are held back for %d s)", text, _MURMUR_S)


_murmur = _Murmur()


def _hush() -> None:
    """Take over kafka-python's log, unless someone has set its level, who then wants to see it."""
    library = logging.getLogger("kafka")
    if library.level == logging.NOTSET:
        library.setLevel(logging.ERROR)
        library.addHandler(_murmur)
        library.propagate = False


class _LastWords(logging.Handler):
    """The last reason kafka-python gave its log for losing a connection."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        _, found, reason = record.getMessage().partition("Connection lost: ")
        if found:
            self.text = " ".join(reason.split())[:200]


def _unavailable(options: KafkaOptions, reason: str) -> BrokerUnavailable:
    if not _answers(options.bootstrap):
        advice = "nothing answers at this address; expected a broker there: start it or correct the address"
    elif options.uses_sasl:
        advice = (
            "the port answers, but the login failed: either user name, password or mechanism are wrong, or this"
            f" listener does not speak {options.security_protocol}; check both"
        )
    else:
        advice = (
            f"the port answers, but not as a {options.security_protocol} listener: it may want TLS or a login"
            " (security_protocol), or be no Kafka broker, or still be starting"
        )
    seconds = options.bootstrap_timeout_ms / 1000
    return BrokerUnavailable(f"no session with {options} within {seconds:g} s: {advice} (last heard: {reason})")


def _answers(bootstrap: str) -> bool:
    for host in bootstrap.split(",")[:2]:
        name, _, port = host.rpartition(":")
        try:
            socket.create_connection((name.strip("[]"), int(port)), timeout=_PROBE_S).close()
            return True
        except (OSError, ValueError):
            continue
    return False
