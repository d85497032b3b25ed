"""A whole Anabranch as a user starts it: the command in a process of its own, watched and killed from outside."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

COMMAND = [sys.executable, "-m", "console.cli"]
REPOSITORY = Path(__file__).parents[2]


def run(
    *arguments: str, timeout: float = 120, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Run one `anabranch` command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
        check=False,
    )


class System:
    """`anabranch up` on a home folder of its own; everything it started goes down with it, however it ends.

    `command`, where given, is started in its place and told the home and the overrides alone; `beside` is the folder
    that it is started in.
    """

    def __init__(
        self,
        config: str,
        home: Path,
        overrides: Sequence[str] = (),
        command: Sequence[str] | None = None,
        beside: Path = REPOSITORY,
    ) -> None:
        self.home, self._beside = home, beside
        sets = [f"home={home}", "serving.port=0", *overrides]
        self._command = [*COMMAND, "up", config, *(word for each in sets for word in ("--set", each))]
        if command is not None:
            self._command = [*command, *sets]
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> System:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 240) -> None:
        """Start it and wait until it says that it is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._log = self.home / "up.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._beside,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            self.wait_for(self._said_ready, timeout, "ready")
        except BaseException:
            self.kill()
            raise

    def _said_ready(self) -> bool:
        text = self._log.read_text()
        if found := re.search(r"ready: (http://\S+?)/v1", text):
            self.url = found.group(1)
            return True
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"`anabranch up` ended with {self._process.returncode}:\n{text[-3000:]}")
        return False

    def stop(self) -> None:
        """Stop it as an operator would, and make sure that nothing is left."""
        if self._process is None:
            return
        family = self._family()
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(90)
        _kill(family)
        self._process = None

    def kill(self) -> None:
        """SIGKILL every process of it at once."""
        if self._process is not None:
            _kill(self._family())
            self._process.wait(30)
            self._process = None

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def family(self) -> list[psutil.Process]:
        """The processes that run now."""
        return self._family()

    def feed(self, file: Path) -> None:
        """Send a file by the command line."""
        done = run("feed", str(file), "--url", self.url)
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        """Ask for the status."""
        found: dict[str, Any] = httpx.get(f"{self.url}/v1/status", timeout=60).json()
        return found

    def domain(self, name: str) -> dict[str, Any]:
        """Return the status of one domain, empty while it is not known."""
        return next((d for d in self.status()["domains"] if d["domain"] == name), {})

    def ask(self, prompt: str, model: str = "auto", max_tokens: int = 64) -> httpx.Response:
        """Ask one question, greedily."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=120)

    def wait_until_published(self, *domains: str, timeout: float = 240) -> None:
        """Wait until these domains are served and nothing of them waits."""

        def served() -> bool:
            states = {d["domain"]: d for d in self.status()["domains"]}
            for name in domains:
                if states.get(name, {}).get("state") in ("rejected", "failed"):
                    raise AssertionError(f"{name}: {states[name]}")
            return all(states.get(n, {}).get("state") == "published" and states[n]["version"] for n in domains)

        self.wait_for(served, timeout, f"{domains} published")

    def wait_for(self, what: Callable[[], bool], timeout: float, name: str, pause: float = 0.2) -> None:
        """Wait until `what` holds."""
        deadline = time.monotonic() + timeout
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(f"not {name} within {timeout:.0f} s\n{self._log.read_text()[-3000:]}")
            time.sleep(pause)


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the tests end, however they end (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _kill(processes: list[psutil.Process]) -> None:
    """SIGKILL all of them, and whatever they start meanwhile."""
    for process in list(processes):
        with suppress(psutil.NoSuchProcess):
            processes.extend(child for child in process.children(recursive=True) if child not in processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=20)
