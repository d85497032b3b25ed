"""Development brokers come up, come back on the same address, and never outlive whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from streaming.broker import ApacheKafkaBroker, TansuBroker, broker_in, free_port, kafka_home
from streaming.errors import StreamError
from streaming.kafka import KafkaOptions, ensure_topic
from streaming.kafka_client import check_session


def alive(pid: int) -> bool:
    """Running, and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.broker
def test_it_starts_stops_and_comes_back_on_the_same_address(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "new" / "folder") as broker:
        address, first = broker.bootstrap, broker.pid
        assert check_session(KafkaOptions(address)) == 0
        broker.start()
        assert broker.pid == first
        broker.kill()
        assert first is not None and gone(first) and broker.pid is None
        broker.start()
        second = broker.pid
        assert broker.bootstrap == address and second not in (None, first)
        broker.restart()
        assert check_session(KafkaOptions(address)) == 0
        last = broker.pid
    assert last is not None and gone(last)
    assert (tmp_path / "new" / "folder" / "tansu.log").exists()
    broker.stop()


@pytest.mark.broker
def test_it_is_stopped_when_its_block_fails(tmp_path: Path) -> None:
    with pytest.raises(LookupError), TansuBroker(tmp_path) as broker:
        pid = broker.pid
        raise LookupError
    assert pid is not None and gone(pid)


@pytest.mark.broker
def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    broker = TansuBroker(tmp_path)
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.3)
        assert check_session(KafkaOptions(broker.bootstrap, bootstrap_timeout_ms=2_000)) == 0
    finally:
        broker.stop()


@pytest.mark.broker
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path, repository: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from streaming.broker import TansuBroker\n"
        "broker = TansuBroker(Path(sys.argv[1])); broker.start(); print(broker.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        assert gone(child)
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.broker
def test_a_taken_port_is_not_mistaken_for_the_broker(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "first") as first:
        second = TansuBroker(tmp_path / "second")
        second.port = first.port
        with pytest.raises(StreamError, match=f"port {first.port} is taken"):
            second.start()
        assert second.pid is None


@pytest.mark.broker
def test_a_broker_that_ends_at_once_is_an_error_with_its_logs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tansu"
    program.write_text("#!/bin/sh\necho no luck today; exit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(program))
    with pytest.raises(StreamError, match=r"tansu ended with code 3 .*tansu\.log.*no luck today"):
        TansuBroker(tmp_path).start()


def test_a_broken_kafka_folder_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "libs").mkdir()
    broker = ApacheKafkaBroker(tmp_path, tmp_path / "data")
    with pytest.raises(StreamError) as caught:
        broker.start()
    assert "\n" not in str(caught.value)
    assert broker.pid is None


@pytest.mark.broker
@pytest.mark.slow
def test_kafkas_data_outlive_a_kill(tmp_path: Path) -> None:
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    with ApacheKafkaBroker(home, tmp_path) as broker:
        options = KafkaOptions(broker.bootstrap)
        ensure_topic(options, "kept", 3)
        broker.kill()
        broker.start()
        assert ensure_topic(options, "kept", 1) == 3


def test_kafka_home_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.3.1.jar").touch()
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    assert kafka_home() == tmp_path.resolve()


def test_apache_kafka_that_is_wanted_and_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.broker.kafka_home", lambda: None)
    with pytest.raises(StreamError, match="set KAFKA_HOME"):
        broker_in(tmp_path, "apache")
    assert isinstance(broker_in(tmp_path, "tansu"), TansuBroker)


def test_free_ports_are_free() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 10 and all(1024 < port < 65_536 for port in ports)
