"""Every path that a text of the repository names is there."""

import re
from collections.abc import Iterator

import pytest

from tests.architecture.sources import REPOSITORY

TEXTS = ["README.md", "CONTRIBUTING.md", "docs/house.md"]
# Made by running, by setting up or by a machine, so named without being there.
MADE = ("runs", ".venv", "..", "~", "http:", "https:")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"^\.?[\w-][\w.-]*(/[\w.-]+)*/?$")
_ENTRY = re.compile(r"^([\s│├└─|`+-]*)([\w.][\w.-]*/?)(\s.*)?$")
_FILE_LIKE = re.compile(r"\.(py|md|ya?ml|toml|json|jsonl|sh|lock|png|svg)$")


def prose_and_blocks(text: str) -> tuple[str, list[str]]:
    """The text outside fenced blocks, and the blocks."""
    parts = re.split(r"^```.*$", text, flags=re.MULTILINE)
    return "\n".join(parts[::2]), parts[1::2]


def top_level() -> set[str]:
    return {path.name for path in REPOSITORY.iterdir()} - {".git", ".venv", "runs"}


def named_in_prose(prose: str) -> Iterator[str]:
    """Links to files, and code spans that begin at a top-level entry or look like a top-level file."""
    for link in _LINK.findall(prose):
        if not link.startswith((*MADE, "#", "mailto:")):
            yield link.split("#")[0]
    for span in _SPAN.findall(prose):
        for word in span.split():
            first = word.split("/")[0]
            if not _PATH.match(word) or first in MADE:
                continue
            if ("/" in word and first in top_level()) or ("/" not in word and _FILE_LIKE.search(word)):
                yield word


def named_in_tree(block: str) -> Iterator[str]:
    """Entries of an annotated tree, joined to paths by their column; a block without a known folder is none."""
    lines = [match for line in block.splitlines() if (match := _ENTRY.match(line))]
    if not any(match[2].endswith("/") and match[2].rstrip("/") in top_level() for match in lines):
        return
    stack: list[tuple[int, str]] = []
    for match in lines:
        column, name = len(match[1]), match[2]
        if not (name.endswith("/") or _FILE_LIKE.search(name) or (not stack and name in top_level())):
            continue
        while stack and stack[-1][0] >= column:
            stack.pop()
        if name.endswith("/") and match is lines[0] and name.rstrip("/") not in top_level():
            # The repository itself, under whatever name it was checked out.
            stack.append((column, ""))
            continue
        path = (stack[-1][1] if stack else "") + name
        if name.endswith("/"):
            stack.append((column, path))
        yield path


def paths_named(text: str) -> set[str]:
    prose, blocks = prose_and_blocks(text)
    found = set(named_in_prose(prose))
    for block in blocks:
        found |= set(named_in_tree(block))
    return {path.removeprefix("./") for path in found}


def is_there(path: str) -> bool:
    """From the root; a bare file name may lie anywhere in the repository."""
    if (REPOSITORY / path).exists() or (REPOSITORY / "docs" / path).exists():
        return True
    return "/" not in path and any(found for top in sorted(top_level()) for found in (REPOSITORY / top).rglob(path))


@pytest.mark.parametrize("name", TEXTS)
def test_every_path_it_names_is_there(name: str) -> None:
    named = paths_named((REPOSITORY / name).read_text(encoding="utf-8"))
    assert named, f"{name} names no path at all"
    assert sorted(path for path in named if path.split("/")[0] not in MADE and not is_there(path)) == []


def test_the_reader_of_trees_reads_trees() -> None:
    text = "\n".join(
        [
            "See `configs/nowhere.py`, `learning/`, [this](docs/none.md), `/v1/models`, `runs/demo/report.json`.",
            "```",
            "anabranch/",
            "├── configs/            settings",
            "│   ├── settings.py     the tree",
            "│   └── presets/",
            "│       └── demo.yaml",
            "└── gone/               nothing",
            "```",
            "```sh",
            "make demo",
            "```",
        ]
    )
    assert paths_named(text) == {
        "configs/nowhere.py",
        "learning/",
        "docs/none.md",
        "configs/",
        "configs/settings.py",
        "configs/presets/",
        "configs/presets/demo.yaml",
        "gone/",
    }


def test_the_repository_is_where_it_is_looked_for() -> None:
    assert is_there("configs/settings.py") and is_there("settings.py") and not is_there("configs/none.py")
