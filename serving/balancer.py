"""HAProxy as a process of the system's owner: kept running, and told which replicas there are.

The replica directory knows where replicas listen. One that it lists is given a slot; the slot is free again when the
directory does not list it any more and it does not answer either: who is cut off from the directory serves on.
"""

from __future__ import annotations

import ctypes
import logging
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from serving.certificates import Certificates
from serving.errors import ServingError
from serving.haproxy import BACKEND, binary, configuration
from serving.options import TlsFiles

_EVERY_S = 0.5
_START_S = 60.0
"""For whoever knows the replicas to be there."""
_CERTIFICATES_EVERY_S = 5.0
_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG."""

_SHORT = 60
"""Characters of a folder's name with which its sockets' names stay within the 108 that they may have."""
_PLAIN = TlsFiles()
_LIBRARY = ctypes.CDLL(None)
_LOG = logging.getLogger(__name__)


class Balancer:
    """Listens at `host:port`; `addresses` tells where replicas listen, and may raise. There are `most` at once."""

    def __init__(
        self,
        host: str,
        port: int,
        addresses: Callable[[], Collection[str]],
        *,
        most: int,
        tls: TlsFiles = _PLAIN,
        body_seconds: float = 60.0,
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="anabranch-", dir=short_folder()))
        self.inner = self._folder / "inner.sock"
        """Where it listens too, for this user only and without TLS."""
        self._admin, self._config = self._folder / "admin.sock", self._folder / "haproxy.cfg"
        try:
            self._certificates = None if tls.certificate is None else Certificates(tls, self._folder)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        self._looked = time.monotonic()
        bind = (
            f'"{"ipv6@" if ":" in host else ""}{host}:{port}" {self._certificates.words if self._certificates else ""}'
        )
        # More than there are, as some go while others come; all are away until they are told.
        text = configuration(
            bind,
            "127.0.0.1:1 disabled",
            most=2 * most + 8,
            body_seconds=body_seconds,
            admin=self._admin,
            inner=self.inner,
        )
        self._config.write_text(text)
        self._addresses, self._where = addresses, f"{host}:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_behind = self._was_told = False
        self._began = time.monotonic()
        self._stopping, self._up = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="balancer", daemon=True)

    def start(self) -> None:
        """Start it, and return once it listens. Raises `ServingError`."""
        checked = subprocess.run([binary(), "-c", "-f", str(self._config)], capture_output=True, text=True, check=False)
        if checked.returncode:
            told = [line for line in checked.stderr.splitlines() if not line.startswith("[NOTICE]")]
            raise ServingError(f"HAProxy does not take its configuration: {' '.join(told)}")
        self._thread.start()
        if not self._up.wait(30):
            self.stop()
            raise ServingError(f"HAProxy does not start; can it listen at {self._where}?")

    def stop(self) -> None:
        """End it, with what is in flight."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        # All of it in this thread, with which the process ends, as it ends with this one.
        try:
            while not self._stopping.is_set():
                self._keep()
                self._stopping.wait(_EVERY_S if self._up.is_set() else 0.05)
        finally:
            if self._process is not None:
                self._process.terminate()
                self._process.wait(10)

    def _keep(self) -> None:
        """Start the process where there is none, and tell it what has changed."""
        try:
            if self._process is None or self._process.poll() is not None:
                if self._process is not None:
                    _LOG.error("HAProxy ended with %s; starting it again", self._process.returncode)
                command = [binary(), "-q", "-db", "-f", str(self._config)]
                self._process = subprocess.Popen(command, preexec_fn=_end_with_parent)
            slots = self._slots()
            self._up.set()
            self._renew()
            self._tell(slots, set(self._addresses()))
        except Exception as error:
            # Whatever it is, HAProxy keeps those that it has, and looks after them. While all starts, nobody is told.
            is_behind = self._up.is_set() and (self._was_told or time.monotonic() - self._began > _START_S)
            if is_behind and not self._is_behind:
                _LOG.warning("HAProxy can't be told of replicas that come and go: %s", error, exc_info=error)
            self._is_behind = is_behind
        else:
            if self._is_behind:
                _LOG.warning("HAProxy is told of replicas again")
            self._is_behind, self._was_told = False, True

    def _renew(self) -> None:
        """Have new certificates taken; what is no good is told, and tried again."""
        if self._certificates is None or time.monotonic() - self._looked < _CERTIFICATES_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            for command in self._certificates.renewed():
                _LOG.info("%s", self._ask(command).strip())
        except ServingError as error:
            _LOG.error("%s; going on with those from before", error)

    def _tell(self, slots: dict[str, tuple[str, bool]], wanted: Collection[str]) -> None:
        """`slots` holds the address of each, empty where it is free, and whether it answers."""
        known = {address for address, _ in slots.values()}
        free = [name for name, (address, _) in slots.items() if not address]
        commands = [
            f"set server {BACKEND}/{name} state maint"
            for name, (address, answers) in slots.items()
            if address and address not in wanted and not answers
        ]
        for name, address in zip(free, sorted(set(wanted) - known), strict=False):
            host, _, port = address.rpartition(":")
            commands += [
                f"set server {BACKEND}/{name} addr {host} port {port}",
                f"set server {BACKEND}/{name} state ready",
                # Until its check says otherwise.
                f"set server {BACKEND}/{name} health down",
            ]
        if commands:
            self._ask("; ".join(commands))

    def _slots(self) -> dict[str, tuple[str, bool]]:
        lines = self._ask(f"show servers state {BACKEND}").splitlines()
        names = lines[1].removeprefix("# ").split()
        rows = [dict(zip(names, line.split(), strict=False)) for line in lines[2:] if line]
        return {
            row["srv_name"]: (
                # Bit 0x01: told to be away.
                "" if int(row["srv_admin_state"]) & 1 else f"{row['srv_addr']}:{row['srv_port']}",
                row["srv_op_state"] != "0",
            )
            for row in rows
        }

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(str(self._admin))
            asking.sendall(f"{command}\n".encode())
            parts = []
            while part := asking.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()


def _end_with_parent() -> None:
    _LIBRARY.prctl(_DEATH_SIGNAL, signal.SIGKILL)


def short_folder() -> str | None:
    """Where the folder is to be made; None is where others make theirs."""
    return None if len(tempfile.gettempdir()) <= _SHORT else "/tmp"
