"""What kafka-python's errors mean: one line that says what was being done, where, what came back and what to do.

A refused certificate, a refused password and a dead broker all end as a time-out there. So the cause is taken from what
the connections last failed with. It opens none.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    AuthorizationError,
    IllegalSaslStateError,
    InvalidReceiveError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka_connections import Connections
from streaming.kafka_options import KafkaOptions

_LOGIN = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)
_NO_SESSION = (KafkaTimeoutError, KafkaConnectionError, NodeNotReadyError, *_LOGIN)
_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_NAME = (62, 64)
"""OpenSSL's numbers of what is wrong with a certificate: the host's name, its address."""
_NO_CERTIFICATE = "this listener wants a certificate of ours: set stream.ssl_certfile and stream.ssl_keyfile"
_OUR_CERTIFICATE = {
    "UNKNOWN_CA": "the broker does not trust the authority of our certificate (stream.ssl_certfile): have it signed by"
    " one that the broker trusts, or add that one to the broker's",
    "CERTIFICATE_EXPIRED": "our certificate (stream.ssl_certfile) has expired: renew it",
    "CERTIFICATE_UNKNOWN": "the broker refuses our certificate (stream.ssl_certfile): see whether it has expired, and"
    " whether the broker trusts who signed it",
}
_OUR_CERTIFICATE["BAD_CERTIFICATE"] = _OUR_CERTIFICATE["CERTIFICATE_UNKNOWN"]
_NO_PORT = ("ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "Connection timed out")
_REFUSED = re.compile(r"([A-Z][a-z]+)AuthorizationFailed")
_RIGHTS = {
    "Group": "Read on the consumer group (stream.group)",
    "Topic": "Describe and Read on the topic to learn from it, Write to feed it, Create where it is missing, and the"
    " same on its .dead-letters",
}
# What a producer gets that may write to no topic at all.
_RIGHTS["Cluster"] = _RIGHTS["Topic"]


@contextmanager
def plain_errors(options: KafkaOptions, doing: str, connections: Connections | None = None) -> Iterator[None]:
    """Turn kafka-python's errors into this package's, with the reason why `connections` has no session if it has none.

    BrokerUnavailable for what may pass by itself, StreamError for all else.
    """
    try:
        yield
    except AuthorizationError as error:
        raise StreamError(f"{doing}: {options} refuses it: {error}; {missing_right(error)}") from error
    except _NO_SESSION as error:
        failure = error if isinstance(error, _LOGIN) else connections.failure if connections is not None else None
        if failure is not None:
            raise BrokerUnavailable(f"{doing}: {no_session(options, failure)}") from error
        raise BrokerUnavailable(f"{doing}: no answer from {options}: {error}; see whether the broker is up") from error
    except KafkaError as error:
        raise StreamError(f"{doing}: {options} answered: {error}") from error


def missing_right(error: Exception | None) -> str | None:
    """What to grant to a user who was refused; None where this is no refusal. A producer's error has it in words."""
    found = _REFUSED.search(f"{type(error).__name__} {error}")
    if found is None:
        return None
    return f"grant this user {_RIGHTS.get(found.group(1), 'the right')} (ACL)"


def no_session(options: KafkaOptions, failure: Exception | None) -> str:
    """Why there is no session with the brokers, what to do about it, and the library's own words."""
    heard = " ".join(str(failure).split())[:200] if failure is not None else "nothing"
    return f"no session with {options}: {_advice(options, failure)} (last heard: {heard})"


def _advice(options: KafkaOptions, failure: Exception | None) -> str:
    if isinstance(failure, StreamError):
        return f"{failure}; it is tried again"
    cause = _below(failure)
    if isinstance(cause, StreamError):
        return f"{cause}; it is tried again"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _their_certificate(options, cause)
    if isinstance(cause, ssl.SSLError):
        alert = (cause.reason or "").partition("ALERT_")[2]
        if options.ssl_certfile is None and "CERTIFICATE" in alert:
            return _NO_CERTIFICATE
        if alert in _OUR_CERTIFICATE:
            return _OUR_CERTIFICATE[alert]
    text = str(failure)
    if options.uses_tls and "handshake failed" in text:
        plain = options.security_protocol.replace("SASL_SSL", "SASL_PLAINTEXT").replace("SSL", "PLAINTEXT")
        return (
            f"the port answers, but not as a {options.security_protocol} listener: it speaks no TLS, or none that we"
            f" speak too; ask another port, or set stream.security_protocol to {plain}"
        )
    if isinstance(failure, InvalidReceiveError):
        return (
            f"the port answers, but not as a {options.security_protocol} listener: it speaks TLS"
            " (stream.security_protocol SSL or SASL_SSL), or is no Kafka broker"
        )
    if "DNS" in text:
        return "its host name is unknown here; correct the address or the DNS"
    if any(each in text for each in _NO_PORT):
        return "nothing answers at this address; expected a broker there: start it or correct the address"
    if isinstance(failure, KafkaTimeoutError | RequestTimedOutError):
        return (
            "the port answers, but not in time: the broker is overloaded or hangs, or this is no"
            f" {options.security_protocol} listener of one"
        )
    if options.uses_sasl:
        return _login(options, failure)
    return (
        f"the port answers, but not as a {options.security_protocol} listener: it may want a login or TLS"
        " (stream.security_protocol), or be no Kafka broker, or still be starting"
    )


def _below(error: Exception | None) -> BaseException | None:
    """What the library's error was made of: its cause, or the error that it holds."""
    if error is None:
        return None
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
    return error.__cause__ or inner or error


def _their_certificate(options: KafkaOptions, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            f"the broker's certificate is for another host ({error.verify_message}); ask it by a name that its"
            " certificate holds (stream.bootstrap, and what the broker advertises), or have one made for this name"
        )
    if error.verify_code == _EXPIRED:
        return "the broker's certificate has expired; have it renewed, and see whether the clock here is right"
    if error.verify_code == _NOT_YET_VALID:
        return "the broker's certificate is not valid yet; see whether the clock here is right"
    trusted = options.ssl_cafile or "the system's"
    return (
        f"the broker's certificate comes from an authority that is not trusted here ({error.verify_message}); set"
        f" stream.ssl_cafile to the certificate of the authority that signed it, got {trusted}"
    )


def _login(options: KafkaOptions, failure: Exception | None) -> str:
    if isinstance(failure, SaslAuthenticationFailedError):
        return (
            f"the port answers, but the login failed: user name or password are wrong for {options.sasl_mechanism};"
            " correct ANABRANCH_KAFKA_USERNAME, and ANABRANCH_KAFKA_PASSWORD or the file stream.sasl_password_file"
        )
    if isinstance(failure, UnsupportedSaslMechanismError):
        return (
            f"the port answers, but this listener takes no login by {options.sasl_mechanism}: set stream.sasl_mechanism"
            " to one that it takes"
        )
    if isinstance(failure, IllegalSaslStateError):
        wanted = "SSL" if options.uses_tls else "PLAINTEXT"
        return (
            f"the port answers, but takes no login: this listener does not speak {options.security_protocol}; set"
            f" stream.security_protocol to {wanted} or ask another port"
        )
    return (
        "the port answers, but the login failed: either user name, password or mechanism are wrong, or this"
        f" listener does not speak {options.security_protocol}; check both"
    )
