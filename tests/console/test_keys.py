"""Keys by the command line: at the registry itself, and through a front door that asks for one."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from configs.loader import load
from console.cli import app
from console.keys import first_steps
from registry.errors import StoreAway
from registry.key_form import KEY
from registry.keys import Grant, KeyStore
from registry.registry import Registry
from serving.access import Access
from serving.access_options import AccessOptions
from serving.frontdoor import build_app
from serving.options import EngineKnobs
from serving.service import RoutedService
from tests.serving.conftest import Notebook, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE


@dataclass
class Terminal:
    """A shell whose commands work on one home, or at one front door."""

    home: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    def at_home(self, *arguments: str) -> Result:
        return self.run("keys", *arguments, "--config", "demo", "--set", f"home={self.home}")

    def made(self, *arguments: str) -> str:
        """The key that a command prints, alone on its output."""
        done = self.at_home(*arguments)
        assert done.exit_code == 0, done.output
        assert KEY.fullmatch(done.stdout.strip()), done.stdout
        return done.stdout.strip()


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("ANABRANCH_API_KEY", raising=False)
    return Terminal(tmp_path / "home")


def refused(done: Result) -> str:
    assert done.exit_code == 2, (done.output, done.exception)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("anabranch: "), done.stderr
    return lines[0]


def listed(done: Result) -> list[dict[str, object]]:
    assert done.exit_code == 0, done.output
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_a_key_s_life_at_the_registry(terminal: Terminal) -> None:
    text = terminal.made(
        *("create", "--name", "web", "--scope", "infer", "--scope", "ingest", "--domain", "cats", "--days", "30"),
        *("--requests-per-minute", "5", "--tokens-per-day", "7"),
    )
    (key,) = listed(terminal.at_home("list", "--json"))
    assert key["id"] == text.split("-")[1] and key["state"] == "valid" and key["expires_at"]
    assert (key["scopes"], key["domains"]) == (["infer", "ingest"], ["cats"])
    assert (key["requests_per_minute"], key["tokens_per_day"]) == (5, 7)
    newer = terminal.made("rotate", str(key["id"]), "--overlap", "0")
    assert newer != text and newer.split("-")[1] == key["id"]
    assert terminal.at_home("revoke", str(key["id"])).exit_code == 0
    assert listed(terminal.at_home("list", "--json"))[0]["state"] == "revoked"
    table = terminal.at_home("list").stdout
    assert str(key["id"]) in table and "cats" in table and text not in table
    acts = terminal.at_home("audit").stdout.splitlines()
    assert [re.sub(r".*  (keys \w+).*", r"\1", act) for act in acts] == ["keys revoke", "keys rotate", "keys create"]
    assert "ended" in refused(terminal.at_home("rotate", str(key["id"])))
    assert terminal.at_home("audit", "--count", "1").stdout.endswith("refused\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--name", "a", "--scope", "root"),
        ("create", "--name", ""),
        ("create", "--name", "a", "--requests-per-minute", "0"),
        ("create", "--name", "a", "--days", "1e9"),
        ("revoke", "0123456789ab"),
        ("rotate", "x"),
    ],
)
def test_what_can_t_be_is_one_line(terminal: Terminal, arguments: tuple[str, ...]) -> None:
    refused(terminal.at_home(*arguments))
    assert listed(terminal.at_home("list", "--json")) == []


# -- through the front door -------------------------------------------------------------------------------------------


@pytest.fixture
def url(terminal: Terminal) -> Iterator[str]:
    """A front door that asks for keys, on the terminal's home."""
    registry = Registry(terminal.home / "registry")
    service = RoutedService(MemoryEngine(), registry, lambda _: None, PlainTemplate(), EngineKnobs(), BASE)
    access = Access.over(registry.storage, AccessOptions(), required=True)
    application = build_app(service, Notebook(), access)
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_commands_send_the_key_of_the_environment(
    terminal: Terminal, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"id": "1", "domain": "cats", "prompt": "p", "completion": "c"}\n')
    commands = [
        ("status",),
        ("domains", "list"),
        ("domains", "pin", "cats"),
        ("feed", str(records), "--no-close"),
        ("route", "meow"),
        ("keys", "list"),
        ("keys", "audit"),
    ]
    for command in commands:
        assert "ANABRANCH_API_KEY" in refused(terminal.run(*command, "--url", url))
    text = terminal.made("create", "--name", "a", "--scope", "admin", "--scope", "infer", "--scope", "ingest")
    monkeypatch.setenv("ANABRANCH_API_KEY", f"{text}\n")
    # The door reads keys again once what it knows is old.
    time.sleep(2.6)
    for _ in range(100):
        if terminal.run("status", "--url", url).exit_code == 0:
            break
        time.sleep(0.1)
    for command in commands:
        done = terminal.run(*command, "--url", url)
        assert done.exit_code == 0, done.output
        assert text.split("-")[2] not in done.output
    assert "POST /v1/domains/cats/pin  200" in terminal.run("keys", "audit", "--url", url).stdout


def test_a_key_s_life_through_the_front_door(terminal: Terminal, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_API_KEY", terminal.made("create", "--name", "a", "--scope", "admin"))
    done = terminal.run("keys", "create", "--name", "b", "--domain", "cats", "--url", url)
    assert done.exit_code == 0 and KEY.fullmatch(done.stdout.strip()), done.output
    key = done.stdout.strip().split("-")[1]
    done = terminal.run("keys", "rotate", key, "--url", url)
    assert done.exit_code == 0 and done.stdout.split("-")[1] == key
    assert terminal.run("keys", "revoke", key, "--url", url).exit_code == 0
    assert [each["state"] for each in listed(terminal.run("keys", "list", "--json", "--url", url))] == [
        "valid",
        "revoked",
    ]
    assert "not known" in refused(terminal.run("keys", "revoke", "x", "--url", url))


def test_a_key_that_is_none_is_one_line(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("ä", "a\nb", "\x01"):
        monkeypatch.setenv("ANABRANCH_API_KEY", text)
        line = refused(terminal.run("status", "--url", "http://127.0.0.1:1"))
        assert "ANABRANCH_API_KEY" in line and text not in line


# -- what `up` says ---------------------------------------------------------------------------------------------------


def test_a_start_says_how_to_make_the_first_key(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*sets: str) -> str:
        return " ".join(first_steps(load("demo", [f"home={terminal.home}", *sets]), "demo"))

    store = KeyStore(Registry(terminal.home / "registry").storage)
    assert said() == ""
    public = "serving.host=0.0.0.0"
    (command,) = re.findall(r"anabranch (keys create --config demo .*)", said(public))
    assert "keys are off" in said(public, "serving.access.keys=disabled")
    done = terminal.run(*command.split(), "--set", f"home={terminal.home}")
    assert done.exit_code == 0 and said(public) == "" == said("serving.access.keys=required")
    store.revoke(store.read()[0].id)
    assert "keys create" in said(public)
    store.create(Grant(name="b", scopes=("infer",)))
    assert said(public) == ""

    def away(_: object) -> None:
        raise StoreAway("get failed")

    monkeypatch.setattr(KeyStore, "read", away)
    assert "get failed" in said(public)
