"""One Kafka topic as its broker describes it: whether it is there, its partitions, its identity, its size limit.

Asked through an admin client of its own, which outlives outages. It does not read or write records.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import AuthorizationError, UnsupportedVersionError

from streaming.errors import TopicMissing
from streaming.kafka_client import build, connections_of, described
from streaming.kafka_options import KafkaOptions
from streaming.kafka_trouble import plain_errors

_REQUEST_TIMEOUT_MS = 5_000
_SIZE_LIMIT = "max.message.bytes"
_NO_IDENTITY = "00000000-0000-0000-0000-000000000000"


class KafkaTopic:
    """A topic, asked about again and again. Raises BrokerUnavailable without a session, TopicMissing where it is not
    there; later calls raise BrokerUnavailable during an outage, within five seconds and mostly at once."""

    def __init__(self, options: KafkaOptions, topic: str) -> None:
        self._options = options
        self._topic = topic
        self._admin = build(KafkaAdminClient, options, request_timeout_ms=_REQUEST_TIMEOUT_MS)
        try:
            found = self._described()
            if found is None:
                raise TopicMissing(f"no topic {topic!r} in {options}; create it with ensure_topic")
            self.partitions = range(len(found["partitions"]))
        except BaseException:
            self.close()
            raise

    def identity(self) -> str | None:
        """The id that the broker gave the topic when it was created; None where it gives none, or where the topic is
        not there."""
        found = self._described()
        topic_id = None if found is None else found.get("topic_id")
        return None if topic_id in (None, _NO_IDENTITY) else str(topic_id)

    def max_message_bytes(self) -> int | None:
        """The largest batch that the topic takes; None where the broker doesn't say, or not to this user."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self._topic)
        with (
            self._plain_errors(f"asking for the limits of topic {self._topic!r}"),
            suppress(AuthorizationError, UnsupportedVersionError),
        ):
            configs = self._admin.describe_configs([resource], config_filter="all")
            limit = configs.get("topic", {}).get(self._topic, {}).get(_SIZE_LIMIT, {}).get("value")
            return None if limit is None else int(limit)
        return None

    def close(self) -> None:
        """Release the connection. Twice is fine."""
        self._admin.close()

    def _described(self) -> dict[str, Any] | None:
        with self._plain_errors(f"asking for topic {self._topic!r}"):
            return described(self._admin, self._topic)

    def _plain_errors(self, doing: str) -> AbstractContextManager[None]:
        return plain_errors(self._options, doing, connections_of(self._admin))
