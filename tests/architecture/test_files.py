"""What every file of ours keeps to."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES, REPOSITORY, Source, sources

LONGEST_FILE = 500
LONGEST_FUNCTION = 60
LARGEST_CLUSTER = 1_500
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
LOADERS = {("torch", "load"), ("torch", "save"), ("pandas", "read_pickle"), ("ray", "cloudpickle")}

each_source = pytest.mark.parametrize("source", sources(), ids=lambda source: source.place)


@each_source
def test_it_says_what_it_is_for(source: Source) -> None:
    assert ast.get_docstring(source.tree), f"{source.place} has no docstring"


@each_source
def test_nothing_is_pickled(source: Source) -> None:
    imported = {name.split(".")[0] for name in source.imports()}
    assert not imported & PICKLES
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in LOADERS, f"{source.place}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{source.place}:{node.lineno}"


@pytest.mark.parametrize(
    "source", [s for s in sources() if s.path.name == "__init__.py"], ids=lambda source: source.place
)
def test_a_package_file_is_a_docstring_and_nothing_else(source: Source) -> None:
    (only,) = source.tree.body
    assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant) and isinstance(only.value.value, str)


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {source.path.parent for source in sources()}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_no_file_is_too_long() -> None:
    ours = [source.path for source in sources()] + sorted((REPOSITORY / "tests").rglob("*.py"))
    lengths = {path.relative_to(REPOSITORY): len(path.read_text(encoding="utf-8").splitlines()) for path in ours}
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_names_of_files_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "core", "base", "common", "misc"}
    assert [source.place for source in sources() if Path(source.place).stem in vague] == []


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{source.place}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_cluster_is_wiring_and_no_more() -> None:
    lines = [
        len(source.path.read_text(encoding="utf-8").splitlines()) for source in sources() if source.package == "cluster"
    ]
    assert sum(lines) <= LARGEST_CLUSTER


def test_every_package_is_checked_strictly() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    assert set(settings["packages"]) == set(PACKAGES)


def test_no_class_has_the_name_of_another() -> None:
    """A word has one meaning; what starts with an underscore is its file's own."""
    homes: dict[str, list[str]] = {}
    for source in sources():
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(source.place)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
