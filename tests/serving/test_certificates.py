"""The front door's TLS, by a real client: who is let in, and certificates that change under way."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from serving import balancer
from serving.balancer import Balancer
from serving.errors import ServingError
from serving.options import TlsFiles
from streaming.broker import free_port
from tests.streaming.authority import Authority, Issued


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority", "authority")


def laid(issued: Issued, folder: Path) -> TlsFiles:
    """The settings for a certificate, whose files lie where the next one's will."""
    folder.mkdir(exist_ok=True)
    shutil.copy(issued.certfile(), folder / "tls.crt")
    shutil.copy(issued.keyfile(), folder / "tls.key")
    return TlsFiles(certificate=folder / "tls.crt", key=folder / "tls.key")


@contextmanager
def door(tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(balancer, "_CERTIFICATES_EVERY_S", 0.1)
    port = free_port()
    running = Balancer("127.0.0.1", port, list, most=1, tls=tls)
    running.start()
    try:
        yield f"https://127.0.0.1:{port}/readyz"
    finally:
        running.stop()


def trusting(authority: Authority, own: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    if own is not None:
        context.load_cert_chain(own.certfile(), own.keyfile())
    return context


def test_clients_that_trust_its_authority_are_answered(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = laid(authority.issue("door", address="127.0.0.1"), tmp_path / "tls")
    with door(tls, monkeypatch) as url:
        # There is no replica: what says so is the front door.
        assert httpx.get(url, verify=trusting(authority)).status_code == 503
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(url)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http"))


def test_who_shows_no_certificate_of_the_authority_is_not_let_in(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    tls = laid(authority.issue("door", address="127.0.0.1"), tmp_path / "tls")
    tls = tls.model_copy(update={"client_ca": authority.file})
    with door(tls, monkeypatch) as url:
        assert httpx.get(url, verify=trusting(authority, authority.issue("client"))).status_code == 503
        for own in (None, stranger.issue("client")):
            with pytest.raises(httpx.HTTPError):
                httpx.get(url, verify=trusting(authority, own))


def test_new_certificates_are_taken_and_bad_ones_are_not(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Authority(tmp_path / "follower", "follower")
    tls = laid(authority.issue("door", address="127.0.0.1"), tmp_path / "tls")
    with door(tls, monkeypatch) as url, httpx.Client(verify=trusting(authority)) as before:
        assert before.get(url).status_code == 503
        (tmp_path / "tls" / "tls.key").write_text("none")
        time.sleep(1.5)
        assert httpx.get(url, verify=trusting(authority)).status_code == 503
        laid(follower.issue("door", address="127.0.0.1"), tmp_path / "tls")
        deadline = time.monotonic() + 15
        while True:
            try:
                assert httpx.get(url, verify=trusting(follower)).status_code == 503
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        # The connection from before goes on.
        assert before.get(url).status_code == 503


@pytest.mark.parametrize("fault", ["absent", "another's key", "no certificate"])
def test_what_can_t_be_used_is_told_in_one_line(authority: Authority, tmp_path: Path, fault: str) -> None:
    tls = laid(authority.issue("door"), tmp_path / "tls")
    match fault:
        case "absent":
            (tmp_path / "tls" / "tls.crt").unlink()
        case "another's key":
            shutil.copy(authority.issue("other").keyfile(), tmp_path / "tls" / "tls.key")
        case _:
            (tmp_path / "tls" / "tls.crt").write_text("none")
    with pytest.raises(ServingError, match=r"^serving\.tls: .+$"):
        Balancer("127.0.0.1", free_port(), list, most=1, tls=tls)
