"""Apache Kafka with every kind of listener, real certificates, logins and rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from streaming.broker import ApacheKafkaBroker
from streaming.kafka_client import build
from streaming.kafka_options import KafkaOptions
from tests.streaming.authority import Authority

USER, PASSWORD = "ann", "correct horse"
_STORE_WORD, _KEY_WORD = "of the store", "of the key"

PROTOCOLS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
    "OPEN": "SASL_PLAINTEXT",
    "SECURE": "SASL_SSL",
}


class Secured:
    """A broker that listens in each of `PROTOCOLS`, and the options of clients that it takes."""

    def __init__(self, kafka_home: Path, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "certificates", "authority")
        self.stranger = Authority(folder / "stranger", "stranger")
        self.broker = ApacheKafkaBroker(
            kafka_home,
            folder / "broker",
            listeners=PROTOCOLS,
            properties=self._properties(),
            scram_users={USER: PASSWORD, "bob": "of bob"},
        )

    def options(self, listener: str, **other: object) -> KafkaOptions:
        """What a client needs for a listener that lets everybody in, or Ann."""
        protocol = PROTOCOLS.get(listener, "PLAINTEXT")
        settings: dict[str, object] = {"bootstrap_timeout_ms": 20_000, "session_timeout_ms": 6_000}
        if protocol.endswith("SSL"):
            settings["ssl_cafile"] = str(self.authority.file)
        if protocol.startswith("SASL"):
            settings |= {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password": PASSWORD}
        if listener == "MUTUAL":
            settings |= self.own_certificate(self.authority)
        at = self.broker.bootstrap_of(listener)
        return KafkaOptions(at, **{"security_protocol": protocol, **settings, **other})  # type: ignore[arg-type]

    def own_certificate(self, authority: Authority, **issued: tuple[int, int]) -> dict[str, object]:
        """Settings of a client with a certificate of its own, its key encrypted."""
        certificate = authority.issue("ann-tls", **issued)  # type: ignore[arg-type]
        key = certificate.keyfile(_KEY_WORD)
        return {
            "ssl_certfile": str(certificate.certfile()),
            "ssl_keyfile": str(key),
            "ssl_key_password": _KEY_WORD,
        }

    @contextmanager
    def admin(self) -> Iterator[KafkaAdminClient]:
        """An administrator, who may do everything."""
        admin = build(KafkaAdminClient, self.options("PLAINTEXT"))
        try:
            yield admin
        finally:
            admin.close()

    def grant(self, user: str, *rights: tuple[ResourceType, str, ACLOperation], prefixed: bool = True) -> None:
        """Let a user do something to what has a name, or begins with it."""
        pattern = ACLResourcePatternType.PREFIXED if prefixed else ACLResourcePatternType.LITERAL
        with self.admin() as admin:
            admin.create_acls(
                [
                    ACL(
                        f"User:{user}",
                        "*",
                        operation,
                        ACLPermissionType.ALLOW,
                        ResourcePattern(kind, name, pattern),
                    )
                    for kind, name, operation in rights
                ]
            )

    def _properties(self) -> dict[str, str]:
        here = self.authority.issue("broker", address="127.0.0.1")
        trusted = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.authority.file)}
        stores = {
            "TLS": here.pem_store(),
            "MUTUAL": here.pem_store(),
            "EXPIRED": self.authority.issue("expired", address="127.0.0.1", days=(-9, -2)).pem_store(),
            "ELSEWHERE": self.authority.issue("elsewhere", address="kafka.example").pem_store(),
        }
        found: dict[str, str] = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:{USER};User:CN=ann-tls",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.secure.ssl.keystore.type": "PKCS12",
            "listener.name.secure.ssl.keystore.location": str(here.pkcs12_store(_STORE_WORD)),
            "listener.name.secure.ssl.keystore.password": _STORE_WORD,
            "listener.name.secure.ssl.key.password": _STORE_WORD,
        }
        for listener, store in stores.items():
            keys = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store), **trusted}
            found |= {f"listener.name.{listener.lower()}.{key}": value for key, value in keys.items()}
        logins = "org.apache.kafka.common.security"
        for listener in ("open", "secure"):
            prefix = f"listener.name.{listener}"
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                found[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{logins}.scram.ScramLoginModule required;"
            plain = f'{logins}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            found[f"{prefix}.plain.sasl.jaas.config"] = plain
        return found
