"""Certificates for HAProxy: read where the settings say, checked, and laid beside its configuration in its own form."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from serving.errors import ServingError
from serving.options import TlsFiles


class Certificates:
    """`words` are what HAProxy's `bind` is told; `folder` is private, as the key lies there too."""

    def __init__(self, tls: TlsFiles, folder: Path) -> None:
        self._tls = tls
        self._pair, self._authority = folder / "certificate.pem", folder / "clients.pem"
        self._read: list[bytes] | None = None
        self.words = f'ssl crt "{self._pair}" alpn h2,http/1.1 ssl-min-ver TLSv1.2'
        if tls.client_ca is not None:
            self.words += f' ca-file "{self._authority}" verify required'
        self.renewed()

    def renewed(self) -> list[str]:
        """Lay down what has changed, and return the commands by which HAProxy takes it; none where nothing has.

        Raises `ServingError` for what can't be: then nothing is laid down.
        """
        tls = self._tls
        assert tls.certificate is not None and tls.key is not None
        try:
            read = [path.read_bytes() for path in (tls.certificate, tls.key, tls.client_ca) if path is not None]
            if read == self._read:
                return []
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password=_none)
            if tls.client_ca is not None:
                ssl.create_default_context(cafile=tls.client_ca)
        except (OSError, ValueError) as error:
            # An SSLError too is an OSError.
            raise ServingError(f"serving.tls: certificate, key or client_ca can't be used: {error}") from error
        laid = {self._pair: ("cert", b"\n".join(read[:2]))}
        if len(read) > 2:
            laid[self._authority] = ("ca-file", read[2])
        commands = []
        for path, (kind, content) in laid.items():
            # An empty line would end the command.
            text = "\n".join(line for line in content.decode().splitlines() if line.strip())
            beside = path.with_suffix(".new")
            beside.touch(0o600)
            beside.write_text(text + "\n")
            os.replace(beside, path)
            commands += [f"set ssl {kind} {path} <<\n{text}\n", f"commit ssl {kind} {path}"]
        self._read = read
        return commands


def _none() -> str:
    raise ValueError("the key asks for a password; give one without")
