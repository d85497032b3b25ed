"""How to talk to Kafka's brokers: addresses, security, times. It opens no connection.

Certificates, keys and passwords that lie in files are read again at each connection, so they may be exchanged while
clients are open. A secret never stands in a text that this module makes.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming.errors import StreamError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
CLIENTS = ("kafka-python", "librdkafka")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to talk to the brokers at `bootstrap` ("host:port,host:port").

    Of a password and a file of it, the file counts; so for `ssl_key_password`, of an encrypted `ssl_keyfile`. Without
    `ssl_cafile` the system's authorities are trusted. Times are in milliseconds. `bootstrap_timeout_ms`: until
    BrokerUnavailable is raised; `session_timeout_ms`: a member silent for this long loses its partitions;
    `max_poll_interval_ms`: so does one that hasn't polled for this long; `delivery_timeout_ms`: how long an append is
    retried, so which outage a flush survives; `max_request_bytes`: the largest record sent, within what the topic
    accepts; `client`: what reads the stream, one of `CLIENTS`. Raises StreamError where the options contradict each
    other.
    """

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_password_file: str | None = None
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_key_password: str | None = field(default=None, repr=False)
    ssl_key_password_file: str | None = None
    session_timeout_ms: int = 10_000
    max_poll_interval_ms: int = 300_000
    delivery_timeout_ms: int = 60_000
    bootstrap_timeout_ms: int = 7_000
    max_request_bytes: int = 1_048_576
    client_id: str = "anabranch"
    client: str = "kafka-python"

    def __post_init__(self) -> None:
        if self.client not in CLIENTS:
            raise StreamError(f"unknown client {self.client!r}: expected one of {', '.join(CLIENTS)}")
        if self.security_protocol not in PROTOCOLS:
            raise StreamError(
                f"unknown security_protocol {self.security_protocol!r}: expected one of {', '.join(PROTOCOLS)}"
            )
        if not self.uses_sasl:
            return
        if self.sasl_mechanism not in MECHANISMS:
            raise StreamError(
                f"{self.security_protocol} needs a sasl_mechanism, one of {', '.join(MECHANISMS)};"
                f" got {self.sasl_mechanism!r}"
            )
        if not self.sasl_username or not (self.sasl_password or self.sasl_password_file):
            raise StreamError(
                f"{self.security_protocol} with {self.sasl_mechanism} needs a user name and a password; set"
                " ANABRANCH_KAFKA_USERNAME, and ANABRANCH_KAFKA_PASSWORD or stream.sasl_password_file"
            )

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def password(self) -> str:
        """The password as it is now. Raises StreamError where its file can't be read."""
        return _secret("sasl_password_file", self.sasl_password_file, self.sasl_password)

    def key_password(self) -> str:
        """The password of an encrypted `ssl_keyfile` as it is now, empty where there is none. Raises as `password`."""
        return _secret("ssl_key_password_file", self.ssl_key_password_file, self.ssl_key_password)

    def tls_context(self) -> ssl.SSLContext:
        """What checks the broker's certificate and its host name, and shows our own certificate where there is one.

        Raises StreamError, naming the file, where one can't be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except (OSError, ValueError) as error:
            raise _unusable("ssl_cafile", self.ssl_cafile, error, "expected certificates in PEM") from error
        if self.ssl_certfile is not None:
            self._show(context, self.ssl_certfile)
        return context

    def check(self) -> None:
        """Raise StreamError where a file that is named can't be used; no broker is asked."""
        if self.uses_sasl:
            self.password()
        if self.uses_tls:
            self.tls_context()

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
            # Asked at each login; `kafka_connections` has taught the library to.
            settings["sasl_plain_password"] = self.password
        return settings

    def __str__(self) -> str:
        login = f", {self.sasl_mechanism} as {self.sasl_username!r}" if self.uses_sasl else ""
        return f"Kafka at {self.bootstrap} ({self.security_protocol}{login})"

    def _show(self, context: ssl.SSLContext, certfile: str) -> None:
        word = self.key_password()
        keyfile = self.ssl_keyfile or certfile
        for name, path in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
            if not Path(path).is_file():
                raise StreamError(f"{name}: expected a file, got {path!r}, which is none; correct the path")
        try:
            # A function, as OpenSSL would ask the terminal for a password that is not given.
            context.load_cert_chain(certfile, keyfile, password=lambda: word)
        except (OSError, ValueError) as error:
            expected = (
                f"expected a certificate and its key in PEM, the key in {keyfile!r} unencrypted or with the right"
                " password (ANABRANCH_KAFKA_KEY_PASSWORD or stream.ssl_key_password_file)"
            )
            raise _unusable("ssl_certfile", certfile, error, expected) from error


def _secret(name: str, file: str | None, otherwise: str | None) -> str:
    if file is None:
        return otherwise or ""
    try:
        # A line's end belongs to the editor that wrote the file, not to the secret.
        found = Path(file).read_text().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise _unusable(name, file, error, "expected a file that holds the password alone") from error
    if not found:
        raise StreamError(f"{name}: {file!r} is empty; expected a file that holds the password alone")
    return found


def _unusable(name: str, file: str | None, error: Exception, expected: str) -> StreamError:
    # Not the error's own text where it was made of a file's content: that may be a secret.
    why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    return StreamError(f"{name}: {file!r} can't be used ({why}); {expected}")
