"""YAML as a configuration is written: no key twice, and 1e-3 is a number.

YAML 1.1, which PyYAML reads, takes 1e-3 for a string and lets the last of two equal keys win without a word; both
have cost people trainings. It also writes what no settings hold: values within themselves, or nested without end, and
halves of characters. What this module does not know: which keys there are.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from configs.errors import ConfigError

_DEEPEST, _MOST = 32, 100_000
_TOO_DEEP = f"expected {_MOST} values in {_DEEPEST} levels at most, got more, or one that holds itself"
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """The safe loader, closed to repeated keys and open to exponents without a decimal point."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a key that is a word, got another value", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected each key once, got {key_node.value!r} again", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def parse(text: str, *, where: str) -> Any:
    """The value that `text` stands for; raises ConfigError with one line that names `where`, line and column."""
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
            _check(value)
            return value
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        reason = error.problem or error.context or "no YAML"
        raise ConfigError(f"{place}: not readable as YAML: {reason}; correct the line") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not readable as YAML: {error}; correct the file") from error
    except ValueError as error:
        raise ConfigError(f"{where}: not readable as YAML: {error}; correct the value or quote it") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: not readable as YAML: {_TOO_DEEP}; correct the value or quote it") from error


def _check(value: Any) -> None:
    """Raise ValueError for what YAML can say and no settings hold."""
    waiting, count = [(value, 0)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST:
            raise ValueError(_TOO_DEEP)
        if isinstance(one, str) and any("\ud800" <= character <= "\udfff" for character in one):
            raise ValueError(f"expected text, got half of a surrogate pair in {one!a:.60}")
        if isinstance(one, dict):
            one = [*one.keys(), *one.values()]
        if isinstance(one, (list, tuple, set)):
            waiting.extend((below, depth + 1) for below in one)


def write_override(tree: dict[str, Any], override: str) -> tuple[str, ...]:
    """Write one `a.b=c` into the tree, c as YAML, and return its key path. Raises ConfigError where it can't be."""
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected KEY=VALUE with a dotted key, such as learner.rank=8; rewrite it")
    node = tree
    for depth, part in enumerate(keys[:-1], start=1):
        below = node.setdefault(part, {})
        if below is None:
            below = node[part] = {}
        if not isinstance(below, dict):
            raise ConfigError(
                f"--set {override}: expected a section at {'.'.join(keys[:depth])}, got {below!r}; shorten the key"
            )
        node = below
    node[keys[-1]] = parse(text, where=f"--set {override}")
    return keys
