"""A certificate authority of the tests' own: real certificates for brokers and clients, sound and otherwise."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509.oid import NameOID

_numbers = itertools.count()
_DAY = datetime.timedelta(days=1)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


class Authority:
    """Signs certificates and writes them, with their keys, below a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.certificate = (
            self._builder(self._name, self._key.public_key(), -1, 30)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str, *, address: str | None = None, days: tuple[int, int] = (-1, 30)) -> Issued:
        """A certificate for `name`, and for a host where an address or another name is given, valid between days."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(name), key.public_key(), *days).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        if address is not None:
            host: x509.GeneralName = (
                x509.IPAddress(ipaddress.ip_address(address)) if address[0].isdigit() else x509.DNSName(address)
            )
            builder = builder.add_extension(x509.SubjectAlternativeName([host]), critical=False)
        return Issued(
            self._folder / f"{name}-{next(_numbers)}", key, builder.sign(self._key, hashes.SHA256()), self.certificate
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, first: int, last: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first * _DAY)
            .not_valid_after(now + last * _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


class Issued:
    """A certificate with its key, written in the forms that clients and brokers read."""

    def __init__(
        self, stem: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, above: x509.Certificate
    ) -> None:
        self._stem, self._key, self._certificate, self._above = stem, key, certificate, above

    def certfile(self) -> Path:
        path = self._stem.with_suffix(".crt")
        path.write_bytes(self._certificate.public_bytes(Encoding.PEM))
        return path

    def keyfile(self, password: str | None = None) -> Path:
        path = self._stem.with_suffix(".locked.key" if password else ".key")
        path.write_bytes(self._key_in_pem(BestAvailableEncryption(password.encode()) if password else NoEncryption()))
        return path

    def pem_store(self) -> Path:
        """Key and certificates in one file, as Kafka reads them."""
        path = self._stem.with_suffix(".pem")
        chain = self._certificate.public_bytes(Encoding.PEM) + self._above.public_bytes(Encoding.PEM)
        path.write_bytes(self._key_in_pem(NoEncryption()) + chain)
        return path

    def pkcs12_store(self, password: str) -> Path:
        path = self._stem.with_suffix(".p12")
        encryption = BestAvailableEncryption(password.encode())
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(b"broker", self._key, self._certificate, [self._above], encryption)
        )
        return path

    def _key_in_pem(self, encryption: KeySerializationEncryption) -> bytes:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
