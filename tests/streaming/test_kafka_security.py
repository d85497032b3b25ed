"""Certificates, logins and rights at the real broker: what is right works for every client, what is wrong is named in
one line with what to do, and goes on once it is mended."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ACLOperation, ResourceType, ScramMechanism, UserScramCredentialUpsertion
from kafka.errors import KafkaConnectionError

from streaming.errors import BrokerUnavailable, RecordError, StreamError
from streaming.kafka import KafkaSink, KafkaSource, ensure_topic
from streaming.kafka_client import check_session, connections_of
from streaming.kafka_options import CLIENTS, KafkaOptions
from streaming.kafka_topic import KafkaTopic
from streaming.location import StreamLocation, open_dead_letters, open_sink, open_source
from streaming.records import TaskRecord
from streaming.source import TopicPartition, from_beginning
from tests.deploy.manifests import kubernetes
from tests.streaming.authority import Authority
from tests.streaming.secured import PASSWORD, Secured
from tests.streaming.streams import read

EVERY_LOGIN = [
    ("TLS", {}),
    ("MUTUAL", {}),
    *((listener, {"sasl_mechanism": kind}) for listener in ("OPEN", "SECURE") for kind in ("PLAIN", "SCRAM-SHA-256")),
    ("SECURE", {"sasl_mechanism": "SCRAM-SHA-512"}),
]


def example(name: str) -> TaskRecord:
    return TaskRecord(id=name, domain="bank", prompt="question", completion="x")


def refusal(options: KafkaOptions) -> str:
    """What is said where there is no session: one line, without a secret."""
    text = ""
    for patience_ms in (1_500, 20_000):  # The second where a busy machine's broker has not even answered in the first.
        with pytest.raises(StreamError) as caught:
            check_session(replace(options, bootstrap_timeout_ms=patience_ms))
        text = str(caught.value)
        if "not in time" not in text and "timed out" not in text.lower():
            break
    assert "\n" not in text and PASSWORD not in text and "guessed" not in text
    return text


@pytest.mark.broker
class TestSound:
    @pytest.mark.parametrize("client", CLIENTS)
    @pytest.mark.parametrize(("listener", "how"), EVERY_LOGIN, ids=lambda each: str(each))
    def test_every_client_gets_through(self, secured: Secured, listener: str, how: dict[str, str], client: str) -> None:
        """Consumer, producer, admin, dead letters: all by the same options."""
        options = secured.options(listener, **how, client=client)
        topic = "-".join(["sound", listener, *how.values(), client])
        location = StreamLocation("kafka", topic, bootstrap=options.bootstrap)
        ensure_topic(options, location.topic, 1)
        with closing(open_sink(location, options=options)) as sink:
            sink.append(example("r1"))
            sink.flush()
        with closing(open_source(location, group="sound", options=options)) as source:
            (found,) = read(source, 1)
            assert found.key == b"r1"
            assert source.bounds(found.topic_partition) == (0, 1)
        with closing(open_dead_letters(location, options=options)) as letters:
            assert letters.put(found, RecordError("undecodable", "no JSON"))
            assert [letter.key for letter in letters.list()] == [b"r1"]


@pytest.mark.broker
class TestWrong:
    @pytest.mark.parametrize(
        ("listener", "what", "todo"),
        [
            ("EXPIRED", "certificate has expired", "have it renewed"),
            ("ELSEWHERE", "certificate is for another host", "stream.bootstrap"),
        ],
    )
    def test_a_certificate_of_the_brokers(self, secured: Secured, listener: str, what: str, todo: str) -> None:
        text = refusal(secured.options(listener))
        assert what in text and todo in text

    def test_another_authority(self, secured: Secured) -> None:
        text = refusal(secured.options("TLS", ssl_cafile=str(secured.stranger.file)))
        assert "not trusted here" in text and "stream.ssl_cafile" in text
        assert "not trusted here" in refusal(secured.options("TLS", ssl_cafile=None)), "nor by the system's"

    def test_a_certificate_of_ours(self, secured: Secured) -> None:
        none = {"ssl_certfile": None, "ssl_keyfile": None}
        assert "wants a certificate of ours" in refusal(secured.options("MUTUAL", **none))
        stranger = secured.own_certificate(Authority(secured.folder / "other", "other"))
        assert "stream.ssl_certfile" in refusal(secured.options("MUTUAL", **stranger))
        expired = secured.own_certificate(secured.authority, days=(-9, -2))
        assert "stream.ssl_certfile" in refusal(secured.options("MUTUAL", **expired))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"sasl_password": "guessed"},
            {"sasl_username": "eve"},
            {"sasl_mechanism": "PLAIN", "sasl_password": "guessed"},
        ],
    )
    @pytest.mark.parametrize("listener", ["OPEN", "SECURE"])
    def test_a_login(self, secured: Secured, listener: str, wrong: dict[str, str]) -> None:
        text = refusal(secured.options(listener, **wrong))
        assert "user name or password are wrong" in text and "stream.sasl_password_file" in text

    @pytest.mark.parametrize(
        ("listener", "asked", "todo"),
        [
            ("TLS", {"security_protocol": "PLAINTEXT"}, "speaks TLS"),
            ("SECURE", {"security_protocol": "SASL_PLAINTEXT"}, "speaks TLS"),
            ("PLAINTEXT", {"security_protocol": "SSL"}, "stream.security_protocol to PLAINTEXT"),
            ("OPEN", {"security_protocol": "SASL_SSL"}, "stream.security_protocol to SASL_PLAINTEXT"),
            ("OPEN", {"security_protocol": "PLAINTEXT"}, "may want a login"),
            ("SECURE", {"security_protocol": "SSL"}, "may want a login"),
            ("PLAINTEXT", {"security_protocol": "SASL_PLAINTEXT"}, "stream.security_protocol to PLAINTEXT"),
            ("TLS", {"security_protocol": "SASL_SSL"}, "stream.security_protocol to SSL"),
        ],
    )
    def test_the_protocol(self, secured: Secured, listener: str, asked: dict[str, str], todo: str) -> None:
        login = {"sasl_mechanism": "PLAIN", "sasl_username": "ann", "sasl_password": PASSWORD}
        text = refusal(secured.options(listener, **login, **asked))
        assert todo in text and "the port answers" in text

    def test_the_right_to_a_topic(self, secured: Secured) -> None:
        """Refused, and then granted while the same reader waits."""
        bob = {"sasl_username": "bob", "sasl_password": "of bob"}
        options = secured.options("SECURE", **bob)
        for attempt in (
            lambda: ensure_topic(options, "bobs-stream", 1),
            lambda: KafkaSource(options, "bobs-stream", group="bobs"),
            lambda: KafkaSink(options, "bobs-stream"),
        ):
            with pytest.raises(StreamError, match=r"grant this user .*Describe and Read on the topic.*\(ACL\)"):
                attempt()
        ensure_topic(secured.options("PLAINTEXT"), "bobs-stream", 1)
        secured.grant("bob", (ResourceType.TOPIC, "bobs-stream", ACLOperation.DESCRIBE))
        with closing(KafkaSink(options, "bobs-stream")) as sink:
            sink.append(example("r1"))
            with pytest.raises(StreamError, match=r"grant this user .*Write to feed it"):
                sink.flush()
            secured.grant("bob", (ResourceType.TOPIC, "bobs-stream", ACLOperation.WRITE))
            eventually(lambda: (sink.append(example("r1")), sink.flush()))
        with closing(KafkaSource(options, "bobs-stream", group="bobs")) as source:
            with pytest.raises(StreamError, match=r"grant this user Read on the consumer group"):
                read(source, 1)
            secured.grant("bob", (ResourceType.GROUP, "bobs", ACLOperation.READ))
            with pytest.raises(StreamError, match=r"grant this user .*Read on the topic"):
                eventually(lambda: read(source, 1), "consumer group")
            secured.grant("bob", (ResourceType.TOPIC, "bobs-stream", ACLOperation.READ))
            assert eventually(lambda: read(source, 1))[0].key == b"r1"

    def test_the_rights_of_the_kubernetes_manifest_suffice(self, secured: Secured) -> None:
        """No more is granted than deploy/kubernetes/kafkauser.yaml does."""
        acls = kubernetes()["KafkaUser", "anabranch"]["spec"]["authorization"]["acls"]
        rights = [
            (ResourceType[acl["resource"]["type"].upper()], acl["resource"]["name"], _operation(name))
            for acl in acls
            for name in acl["operations"]
        ]
        change_password(secured, "dora", "of dora")
        secured.grant("dora", *rights, prefixed=False)
        everybody = secured.options("PLAINTEXT")
        location = StreamLocation("kafka", "anabranch", bootstrap=secured.broker.bootstrap_of("SECURE"))
        for topic in (location.topic, location.dead_letters.topic):
            ensure_topic(everybody, topic, 1)
        options = secured.options("SECURE", sasl_username="dora", sasl_password="of dora")
        assert eventually(lambda: ensure_topic(options, location.topic, 1)) == 1
        with closing(open_sink(location, options=options)) as sink:
            eventually(lambda: (sink.append(example("r1")), sink.flush()))
        described = KafkaTopic(options, location.topic)
        assert described.max_message_bytes() and described.identity()
        described.close()
        with closing(open_source(location, group="anabranch", options=options)) as source:
            (found, *_) = read(source, 1)
            source.commit({found.topic_partition: 1})
            assert source.bounds(found.topic_partition)[0] == 0
        with closing(open_dead_letters(location, options=options)) as letters:
            assert letters.put(found, RecordError("undecodable", "no JSON"))
            assert [letter.key for letter in letters.list()] == [b"r1"]


def _operation(name: str) -> ACLOperation:
    """`DescribeConfigs` as the library spells it."""
    return ACLOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()]


def eventually(attempt, still: str = "grant this user", within_s: float = 30.0):  # type: ignore[no-untyped-def]
    """Try until what is granted is in force; `still` is in the error until then."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return attempt()
        except StreamError as error:
            if still not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.broker
class TestMended:
    def test_a_password_is_read_again_at_each_login(self, secured: Secured, tmp_path: Path) -> None:
        """Changed at the broker, then in the file: the reader says what is wrong meanwhile, and goes on."""
        file = tmp_path / "password"
        file.write_text("first\n")
        change_password(secured, "carl", "first")
        everything = [(ResourceType.TOPIC, "carls"), (ResourceType.GROUP, "carls")]
        secured.grant("carl", *((kind, name, ACLOperation.ALL) for kind, name in everything))
        login = {"sasl_username": "carl", "sasl_password": None, "sasl_password_file": str(file)}
        options = secured.options("SECURE", **login, delivery_timeout_ms=5_000)
        ensure_topic(options, "carls", 1)
        sink, source = KafkaSink(options, "carls"), KafkaSource(options, "carls", group="carls")
        with closing(source), closing(sink):
            sink.append(example("r1"))
            sink.flush()
            assert read(source, 1)[0].key == b"r1"
            change_password(secured, "carl", "second")
            hang_up(sink, source)
            with pytest.raises(BrokerUnavailable, match=r"'carls'.*user name or password are wrong"):
                sink.append(example("r2"))
                sink.flush()
            with pytest.raises(BrokerUnavailable, match="user name or password are wrong"):
                source.bounds(TopicPartition("carls", 0))
            file.unlink()
            with pytest.raises(StreamError, match=r"sasl_password_file.*No such file"):
                check_session(options)
            file.write_text("second")
            eventually(lambda: (sink.append(example("r2")), sink.flush()), "session")
            assert read(source, 1)[0].key == b"r2"

    def test_librdkafka_begins_anew_with_the_secrets_as_they_are(self, secured: Secured, tmp_path: Path) -> None:
        """Once it is cut off: by a wrong password it says so, by the right one it goes on where it stood."""
        file = tmp_path / "password"
        file.write_text(PASSWORD)
        login = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_password": None, "sasl_password_file": str(file)}
        options = secured.options("SECURE", **login, client="librdkafka")
        ensure_topic(options, "renewed", 1)
        only, noted = TopicPartition("renewed", 0), {"next": 0}
        location = StreamLocation("kafka", "renewed", bootstrap=options.bootstrap)
        sink = KafkaSink(secured.options("PLAINTEXT"), "renewed")
        source: Any = open_source(location, group="renewed", start_at=lambda _each: noted["next"], options=options)
        with closing(source), closing(sink):
            sink.append(example("r1"))
            sink.flush()
            noted["next"] = read(source, 1)[-1].offset + 1
            first = source._consumer
            file.write_text("guessed")
            while source._consumer is first:  # What still comes from the broker says that it is not cut off.
                source._is_cut_off = True
                assert source.poll(0.2, 10) == []
            source._described._admin.close()  # Its session is older than the wrong password.
            source._described = KafkaTopic(secured.options("SECURE", sasl_mechanism="SCRAM-SHA-512"), "renewed")
            deadline = time.monotonic() + 20
            while not source._is_cut_off and time.monotonic() < deadline:
                assert source.poll(0.2, 10) == []
            with pytest.raises(BrokerUnavailable, match=r"asking where renewed\[0\]"):
                source.bounds(only)
            file.write_text(PASSWORD + "\n")
            sink.append(example("r2"))
            sink.flush()
            assert [each.key for each in read(source, 1)] == [b"r2"]

    def test_certificates_are_read_again_at_each_connection(self, secured: Secured, tmp_path: Path) -> None:
        trusted = tmp_path / "ca.pem"
        trusted.write_bytes(secured.authority.file.read_bytes())
        options = secured.options("TLS", ssl_cafile=str(trusted))
        ensure_topic(options, "certified", 1)
        with closing(KafkaSource(options, "certified", group=None, start_at=from_beginning)) as source:
            trusted.write_bytes(secured.stranger.file.read_bytes())
            hang_up(source)
            only = TopicPartition("certified", 0)
            with pytest.raises(BrokerUnavailable, match="not trusted here"):
                source.bounds(only)
            trusted.write_text("no certificate")
            with pytest.raises(BrokerUnavailable, match=r"ssl_cafile: .*expected certificates in PEM"):
                eventually(lambda: source.bounds(only), "not trusted")
            trusted.write_bytes(secured.authority.file.read_bytes())
            assert eventually(lambda: source.bounds(only), "session") == (0, 0)


def hang_up(*clients: KafkaSink | KafkaSource) -> None:
    """Have each client connect again, as after an outage."""
    for each in clients:
        inner = each._producer if isinstance(each, KafkaSink) else each._consumer
        connections = connections_of(inner)
        assert connections is not None
        for connection in list(connections._conns.values()):
            connections.call_soon(connection.close, KafkaConnectionError("hung up"))


def change_password(secured: Secured, user: str, password: str) -> None:
    with secured.admin() as admin:
        mechanism = ScramMechanism.SCRAM_SHA_512
        assert admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, mechanism, password)]) == {
            user: None
        }


class TestFiles:
    """What is wrong on our side is said before any broker is asked."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path, "authority")

    def options(self, authority: Authority, **other: str | None) -> KafkaOptions:
        return KafkaOptions("127.0.0.1:1", security_protocol="SSL", ssl_cafile=str(authority.file), **other)  # type: ignore[arg-type]

    def test_a_key_is_opened_by_its_password(self, authority: Authority, tmp_path: Path) -> None:
        issued = authority.issue("client")
        files = {"ssl_certfile": str(issued.certfile()), "ssl_keyfile": str(issued.keyfile("sesame"))}
        self.options(authority, **files, ssl_key_password="sesame").check()
        (tmp_path / "word").write_text("sesame\n")
        self.options(authority, **files, ssl_key_password_file=str(tmp_path / "word")).check()
        for wrong in (None, "guessed"):
            with pytest.raises(StreamError, match=r"client-\d+\.crt.*password.*ANABRANCH_KAFKA_KEY_PASSWORD"):
                self.options(authority, **files, ssl_key_password=wrong).check()

    def test_another_ones_key(self, authority: Authority) -> None:
        mine, other = authority.issue("mine"), authority.issue("other")
        with pytest.raises(StreamError, match=r"ssl_certfile.*mine-\d+\.crt.*other-\d+\.key"):
            self.options(authority, ssl_certfile=str(mine.certfile()), ssl_keyfile=str(other.keyfile())).check()

    @pytest.mark.parametrize("name", ["ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password_file"])
    def test_a_file_that_is_not_there(self, authority: Authority, name: str) -> None:
        issued = authority.issue("client")
        files = {"ssl_certfile": str(issued.certfile()), "ssl_keyfile": str(issued.keyfile())}
        with pytest.raises(StreamError, match=rf"{name}.*nowhere"):
            replace(self.options(authority, **files), **{name: "/nowhere/at-all"}).check()  # type: ignore[arg-type]

    def test_a_password_file_holds_a_password(self, tmp_path: Path) -> None:
        file = tmp_path / "word"
        options = KafkaOptions(
            "a:1",
            security_protocol="SASL_SSL",
            sasl_mechanism="PLAIN",
            sasl_username="ann",
            sasl_password_file=str(file),
        )
        for content in (b"", b"\n", b"\xff\xfe"):
            file.write_bytes(content)
            with pytest.raises(StreamError, match=r"sasl_password_file.*holds the password alone"):
                options.check()
        file.write_text(" with blanks \r\n")
        assert options.password() == " with blanks "


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []
        thread = threading.Thread(target=lambda: hold_all(server, held), daemon=True)
        thread.start()
        yield server.getsockname()[1]
    for each in held:
        each.close()


def hold_all(server: socket.socket, held: list[socket.socket]) -> None:
    while True:
        try:
            held.append(server.accept()[0])
        except OSError:
            return


@pytest.mark.parametrize("protocol", ["SSL", "PLAINTEXT"])
def test_a_port_that_keeps_quiet_holds_nobody(protocol: str) -> None:
    with silent_port() as port:
        began, threads = time.monotonic(), threading.active_count()
        with pytest.raises(BrokerUnavailable):
            check_session(KafkaOptions(f"127.0.0.1:{port}", security_protocol=protocol, bootstrap_timeout_ms=1_000))
        assert time.monotonic() - began < 10 and threading.active_count() == threads
