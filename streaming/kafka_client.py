"""What every Kafka client here shares: how one is made, and the making of topics.

kafka-python's log is taken over: why a client could not be built is in the error that is raised, and afterwards one
line a minute of it is passed on. It does not know records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from kafka import KafkaAdminClient
from kafka.errors import (
    AuthorizationError,
    InvalidReplicationFactorError,
    KafkaConfigurationError,
    KafkaError,
    RequestTimedOutError,
    TopicAlreadyExistsError,
    for_code,
)
from kafka.net.selector import NetworkSelector

from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka_connections import Connections
from streaming.kafka_options import KafkaOptions
from streaming.kafka_trouble import no_session, plain_errors

_MURMUR_S = 60

_log = logging.getLogger(__name__)

Client = TypeVar("Client")

_connections: WeakKeyDictionary[Any, Connections] = WeakKeyDictionary()


def build(kind: Callable[..., Client], options: KafkaOptions, **settings: Any) -> Client:
    """A kafka-python client with a session. Raises BrokerUnavailable with the likely cause, within ten seconds, and
    StreamError where a file that `options` name can't be used."""
    hush(logging.getLogger("kafka"), _murmur)
    options.check()
    made: list[tuple[Any, Connections]] = []

    def network_client(**configuration: Any) -> Any:
        net = NetworkSelector(**configuration)
        connections = Connections(options, net, **configuration)
        client = kind.DEFAULT_CONFIG["kafka_client"](net, connections, **configuration)  # type: ignore[attr-defined]
        made.append((client, connections))
        return client

    _murmur.held += 1
    try:
        client = kind(**options.client_settings(), kafka_client=network_client, **settings)
    except BaseException as error:
        # The constructor leaves the I/O thread of its network client running.
        for each, _ in made:
            each.close()
        if isinstance(error, KafkaConfigurationError | OSError | ValueError):
            raise StreamError(f"{options}: the settings are refused: {error}") from error
        if isinstance(error, KafkaError):
            failure = made[-1][1].failure if made else None
            seconds = options.bootstrap_timeout_ms / 1000
            raise BrokerUnavailable(f"within {seconds:g} s {no_session(options, failure or error)}") from error
        raise
    finally:
        _murmur.held -= 1
    _connections[client] = made[-1][1]
    return client


def connections_of(client: Any) -> Connections | None:
    """The connections of a client that was built here."""
    return None if client is None else _connections.get(client)


def check_session(options: KafkaOptions) -> int:
    """One metadata call: the number of topics. Raises BrokerUnavailable."""
    admin = build(KafkaAdminClient, options)
    try:
        with plain_errors(options, "listing the topics", connections_of(admin)):
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
        with plain_errors(options, f"creating topic {topic!r}", connections_of(admin)):
            known = _partition_count(admin, topic)
            if known:
                return known
            _create(admin, topic, partitions)
            admin.wait_for_topics([topic])
            return _partition_count(admin, topic)
    finally:
        admin.close()


def _create(admin: KafkaAdminClient, topic: str, partitions: int) -> None:
    """Create a topic; tried again where the brokers that would hold it are only just registering, or were slow."""
    wanted = {topic: {"num_partitions": partitions, "replication_factor": -1}}
    for pause_s in (1.0, 2.0, 4.0, None):
        # Suppressed: another process was first, or a try before this one whose answer was lost; its number counts.
        with suppress(TopicAlreadyExistsError):
            try:
                admin.create_topics(wanted)
            except (InvalidReplicationFactorError, RequestTimedOutError):
                if pause_s is None:
                    raise
                time.sleep(pause_s)
                continue
        return


def described(admin: KafkaAdminClient, topic: str) -> dict[str, Any] | None:
    """What the broker says of a topic; None where there is none. Raises kafka-python's errors, also where this user may
    not know of it."""
    for each in admin.describe_topics([topic]):
        if each["error_code"] == 0:
            return dict(each)
        if issubclass(kind := for_code(each["error_code"]), AuthorizationError):
            raise kind(topic)
    return None


def _partition_count(admin: KafkaAdminClient, topic: str) -> int:
    found = described(admin, topic)
    return 0 if found is None else len(found["partitions"])


class _Murmur(logging.Handler):
    """Passes on one of a library's error lines a minute: an outage is ten a second, and all say the same.

    Lines are `held` back altogether while a client is being built, where an error is raised instead.
    """

    def __init__(self, library: str) -> None:
        super().__init__(logging.ERROR)
        self.held = 0
        self._library, self._next = library, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if not self.held and now >= self._next:
            self._next = now + _MURMUR_S
            text = " ".join(record.getMessage().split())[:300]
            _log.warning("%s keeps trying: %s (more of these are held back for %d s)", self._library, text, _MURMUR_S)


_murmur = _Murmur("kafka-python")


def hush(library: logging.Logger, murmur: _Murmur | None = None) -> None:
    """Take over a library's log, unless someone has set its level, who then wants to see it."""
    if library.level == logging.NOTSET:
        library.setLevel(logging.ERROR)
        library.addHandler(murmur or _Murmur(library.name))
        library.propagate = False
