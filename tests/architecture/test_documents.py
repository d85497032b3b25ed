"""README and docs tell of commands, options, settings and paths that are there."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from configs.loader import load, presets
from configs.problems import known_keys
from console.cli import app
from serving.frontdoor import build_app
from tests.architecture.sources import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def shell_lines(text: str) -> Iterator[str]:
    """Lines of shell blocks, and code spans that are a command of ours; brackets of usage lines taken off."""
    for language, block in _BLOCK.findall(text):
        if language in ("sh", "bash", "shell"):
            yield from block.replace("\\\n", " ").splitlines()
    for span in _SPAN.findall(_BLOCK.sub("", text)):
        yield re.sub(r"[\[\]]", " ", span)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `anabranch` that is called in a text."""
    for line in shell_lines(text):
        words = shlex.split(line, comments=True)
        for position, word in enumerate(words):
            if word.split("/")[-1] == "anabranch" and words[position + 1 :]:
                yield words[position + 1 :]
                break


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def check(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    while isinstance(command, TyperGroup) and rest:
        name = rest.pop(0)
        assert name in command.commands, f"anabranch {' '.join(arguments)}: no command {name!r}"
        command = command.commands[name]
    if command.name == "bench":
        return  # what follows the benchmark's name is its own to take
    named = [word.split("=")[0] for word in rest if word.startswith("--")]
    assert set(named) <= options(command), f"anabranch {' '.join(arguments)}: {command.name} has {options(command)}"
    sets = [value for option, value in pairwise(rest) if option == "--set" and "." in value]
    if sets or (rest and rest[0] in presets()):
        load(rest[0] if rest[0] in presets() else "laptop", sets)


@each_document
def test_every_command_in_it_is_there(document: Path) -> None:
    for arguments in commands(document.read_text(encoding="utf-8")):
        check(arguments)


def test_the_readme_shows_commands() -> None:
    shown = [arguments[0] for arguments in commands((REPOSITORY / "README.md").read_text(encoding="utf-8"))]
    assert {"up", "feed", "status", "chat"} <= set(shown)


def test_every_command_stands_in_the_interfaces() -> None:
    group: Any = typer.main.get_command(app)
    told = {arguments[0] for arguments in commands((REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8"))}
    assert set(group.commands) == told


def test_every_path_of_the_front_door_stands_in_the_interfaces() -> None:
    """Spans such as `GET /v1/domains`; more of them may share a row of the table."""
    nobody: Any = None
    there = {(method, route.path) for route in build_app(nobody, nobody).routes for method in route.methods}
    told = set()
    for span in _SPAN.findall((REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")):
        if match := re.fullmatch(r"(GET|POST|DELETE) (/\S*)", span):
            told.add((match[1], match[2]))
    assert {(method, path.replace(":path}", "}")) for method, path in there} == told


@pytest.mark.parametrize("package", ["actors", "cluster"])
def test_the_house_names_every_module_that_runs(package: str) -> None:
    text = (REPOSITORY / "docs" / "house.md").read_text(encoding="utf-8")
    tree = text[text.index(f"\n{package}/ ") :].split("\n\n")[0]
    modules = {path.name for path in (REPOSITORY / package).glob("*.py")} - {"__init__.py", "errors.py", "names.py"}
    assert {name for name in modules if name not in tree} == set()


@each_document
def test_every_setting_in_it_is_there(document: Path) -> None:
    """Code spans `section.key`, where `section` is one of the tree's."""
    known = set(known_keys())
    sections = {key.split(".")[0] for key in known if "." in key}
    for span in _SPAN.findall(_BLOCK.sub("", document.read_text(encoding="utf-8"))):
        if re.fullmatch(r"[a-z]+\.[a-z_]+", span) and span.split(".")[0] in sections:
            assert span in known or (REPOSITORY / span).exists() or span.endswith((".py", ".sqlite")), span


@each_document
def test_every_link_in_it_leads_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, link


@each_document
def test_every_path_in_it_is_there(document: Path) -> None:
    """Code spans that begin at a top-level folder of the repository."""
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith(".")} - {"runs"}
    for span in _SPAN.findall(_BLOCK.sub("", document.read_text(encoding="utf-8"))):
        first, slash, _ = span.partition("/")
        # Files below `home` have the registry's name first too; they carry a placeholder or lie in one of its folders.
        in_home = first == "registry" and not span.endswith((".py", "registry/"))
        if slash and first in folders and re.fullmatch(r"[\w./-]+", span) and not in_home:
            assert (REPOSITORY / span).exists(), span


def test_every_message_of_the_troubleshooting_is_said_somewhere() -> None:
    """In one string, or over several that stand together."""
    sources = "".join(
        path.read_text(encoding="utf-8") for path in REPOSITORY.glob("*/*.py") if "tests" not in path.parts
    )
    said = re.sub(r'"\s*f?"', "", sources)
    rows = re.findall(r"^\| `([^`]+)`", (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(rows) > 20
    assert [message for message in rows if message not in said] == []
