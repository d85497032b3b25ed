"""The live view: what it draws of a status, and how it begins, goes on and ends in a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from console.picture import Rates, picture
from serving.api import SystemStatus
from tests.architecture.sources import REPOSITORY
from tests.console.answers import FrontDoor, front_door

WAITING = {"train": 1200, "held_out": 34}


def domain(name: str, state: str = "published", **more: object) -> dict[str, Any]:
    told = {"domain": name, "state": state, "version": None, "examples": 1500, "router_rows": 8, "waiting": WAITING}
    return {**told, **more}


def worker(name: str, polled: int, **more: object) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": name, "partitions": ["t[0]"], "spooled": 7, "full": False, "polled": polled, "dead_letters": 0,
        "duplicates": 3,
    }  # fmt: skip
    return {**told, **more}


def status(**more: object) -> SystemStatus:
    told = {"manifest": 6, "base": {"model": "m", "digest": "0" * 64}, "domains": [], "ingest": [], "replicas": {}}
    return SystemStatus.model_validate({**told, **more})


BUSY = status(
    domains=[
        domain("cats", version="cats@v2-1a2b3c4d", pinned=True, prequential=0.873, prequential_rows=8),
        domain("dogs", "learning", progress={"step": 30, "steps": 120, "loss": 0.4567}),
        domain("news", "publishing", progress={"step": 0, "steps": 0, "loss": None}),
        domain("mice", "failed", detail="no room [left]"),
    ],
    ingest=[worker("ingest-0", 100, lag={"t[0]": 1000, "t[1]": 234}, full=True, dead_letters=5)],
    replicas={"r1": {"manifest": 6}, "r2": {"manifest": 5, "lag_seconds": 7}, "r3": {"manifest": 6, "fenced": "cut"}},
    trouble="directory away",
)


def drawn(found: SystemStatus, rates: Rates | None = None, rows: int = 100, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width, markup=False, force_terminal=True, color_system="standard")
    console.print(picture(found, rates or Rates(), "http://door", rows))
    return console.file.getvalue()  # type: ignore[attr-defined]


def plain(text: str) -> list[list[str]]:
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).split() for line in text.splitlines()]


def test_everything_is_in_the_picture() -> None:
    lines = plain(drawn(BUSY))
    assert lines[0][:3] == ["manifest", "6", "http://door"]
    assert ["ingest-0", "1,234", "-", "100", "3", "5", "7", "full:", "paused"] in lines
    at = {line[0]: line for line in lines if line}
    assert at["cats"] == ["cats", "published", "1,500", "1,234", "87.3%", "cats@v2-1a2b3c4d", "(pinned)"]
    assert at["dogs"][1] == "learning" and at["dogs"][-5:] == ["30/120", "0.457", "1,500", "1,234", "-"]
    assert "0/0" in at["news"]
    assert at["r2"] == ["r2", "5", "behind,", "for", "7", "s"]
    assert at["r3"] == ["r3", "6", "takes", "no", "requests"]
    assert [line[0] for line in lines if line and line[0] in ("cats", "dogs", "mice", "news")] == [
        "mice", "dogs", "news", "cats"
    ]  # fmt: skip


def test_troubles_are_red() -> None:
    red = [line for line in drawn(BUSY).splitlines() if "\x1b[31m" in line and "trouble:" in line]
    assert [line.split("trouble: ")[1].split("\x1b")[0] for line in red] == [
        "coordinator: directory away", "mice: no room [left]", "r3: cut"
    ]  # fmt: skip


def test_of_many_domains_those_that_matter_are_shown() -> None:
    many = [domain(f"d{number:04}") for number in range(1000)] + [domain("z", "failed")]
    lines = plain(drawn(status(domains=many), rows=3))
    assert [line[0] for line in lines if line and (line[0][0] == "d" or line[0] == "z")][1:] == ["z", "d0000", "d0001"]
    assert ["and", "998", "more"] in lines


def test_a_narrow_terminal_breaks_no_line() -> None:
    assert max(len(" ".join(line)) for line in plain(drawn(BUSY, width=60))) <= 60


def test_rates_are_differences_that_begin_anew_with_their_worker() -> None:
    rates = Rates()
    assert rates.of("a") is None
    for at, polled in enumerate([0, 100, 100, 400]):
        rates.saw(status(ingest=[worker("a", polled)]), float(at))
    assert rates.of("a") == pytest.approx(400 / 3)
    rates.saw(status(ingest=[worker("a", 10)]), 4.0)
    assert rates.of("a") is None
    rates.saw(status(ingest=[worker("a", 30)]), 6.0)
    assert rates.of("a") == pytest.approx(10)
    for at in range(7, 40):
        rates.saw(status(ingest=[worker("a", 30)]), float(at))
    assert rates.of("a") == 0
    rates.saw(status(), 41.0)
    assert rates.of("a") is None


def test_once() -> None:
    with front_door(FrontDoor(body=BUSY.model_dump_json().encode())) as door:
        done = door.run("top", "--once")
    assert done.exit_code == 0 and door.asked == ["GET /v1/status"]
    assert "cats@v2-1a2b3c4d (pinned)" in done.stdout and "trouble: mice: no room [left]" in done.stdout


def test_once_without_a_service() -> None:
    assert "no answer" in FrontDoor(url="http://127.0.0.1:9").refused("top", "--once")


class Terminal:
    """`anabranch top` in a terminal of its own."""

    def __init__(self, url: str) -> None:
        self._master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        words = [sys.executable, "-m", "console.cli", "top", "--interval", "0.2", "--url", url]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
        self.process = subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True,
            # Whoever runs the tests in the background has it ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.seen = ""

    def until(self, seen: Callable[[str], bool]) -> None:
        """Read on until what was printed since the last call is so."""
        self.seen, end = "", time.monotonic() + 30
        while not seen(self.seen):
            assert time.monotonic() < end, self.seen
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 65536).decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def ended(self) -> int:
        """The exit code; the terminal must be as it was."""
        code = self.process.wait(20)
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        assert "Traceback" not in self.seen
        assert "\x1b[?1049l" in self.seen, "the screen from before is not back"
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self.slave)


@contextmanager
def terminal(url: str) -> Iterator[Terminal]:
    watching = Terminal(url)
    try:
        yield watching
    finally:
        watching.close()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["q", "Ctrl-C", "SIGTERM"])
def test_it_draws_again_and_ends_when_asked(end: str) -> None:
    with front_door(FrontDoor(body=BUSY.model_dump_json().encode())) as door, terminal(door.url) as watching:
        watching.until(lambda seen: seen.count("directory away") >= 3)
        if end == "SIGTERM":
            watching.process.terminate()
        elif end == "Ctrl-C":
            os.killpg(watching.process.pid, signal.SIGINT)
        else:
            watching.press(b"xq")
        assert watching.ended() == 0


def test_a_service_that_goes_and_comes() -> None:
    away = FrontDoor(status=503, body=b'{"error": {"message": "not now"}}')
    with front_door(away) as door, terminal(door.url) as watching:
        watching.until(lambda seen: seen.count("not now") >= 2)
        door.body, door.status = BUSY.model_dump_json().encode(), 200
        watching.until(lambda seen: "directory away" in seen)
        door.body = json.dumps({"manifest": "of another form"}).encode()
        watching.until(lambda seen: "looking again" in seen and "cats@v2" in seen)
        watching.press(b"q")
        assert watching.ended() == 0
