"""Our source files, read as syntax trees: who imports what, without importing anything."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = (
    "configs",
    "learning",
    "streaming",
    "registry",
    "serving",
    "actors",
    "cluster",
    "examples",
    "benchmarks",
    "console",
)


@dataclass(frozen=True)
class Source:
    """One module of ours."""

    module: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    @property
    def place(self) -> str:
        return self.path.relative_to(REPOSITORY).as_posix()

    def imports(self) -> Iterator[str]:
        """Full names of all modules that are imported anywhere in the file; `from a import b` gives a and a.b."""
        parts = self.module.split(".")
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                is_package = self.path.name == "__init__.py"
                above = parts[: len(parts) - node.level + is_package] if node.level else []
                origin = ".".join([*above, *([node.module] if node.module else [])])
                yield origin
                yield from (f"{origin}.{alias.name}" for alias in node.names)


@cache
def sources() -> tuple[Source, ...]:
    """All modules of our packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Source(module, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def graph() -> dict[str, set[str]]:
    """Module to the modules of ours that it imports."""
    known = {source.module for source in sources()}
    return {source.module: {name for name in source.imports() if name in known} for source in sources()}
