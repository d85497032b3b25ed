"""From a preset's name or a YAML file, and overrides, to checked settings or one clear line.

Values are taken as written: no string is turned into a number behind the author's back. Relative paths are made
absolute here, because actors do not share the working directory of whoever read the file.

What this module does not know: what the settings mean, and whether the things they name exist (`checks`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.choice import KIND, sections_of
from configs.document import parse, write_override
from configs.errors import ConfigError
from configs.problems import describe
from configs.settings import Settings

PRESETS = Path(__file__).parent / "presets"
REPOSITORY = Path(__file__).parents[1]


def presets() -> tuple[str, ...]:
    """Names that `load` knows without a file, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def load(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Settings from a preset or a YAML file, with `a.b=c` overrides applied in order; c is read as YAML.

    Where an override asks for another `kind` of a section, what its file says of other kinds alone is left out.
    Raises ConfigError with one line: what, where, expected, got, remedy.
    """
    path = _locate(str(name_or_path))
    tree = _read(path)
    written: dict[tuple[str, ...], str] = {}
    of_file = {section: set(keys) for section, keys in tree.items() if isinstance(keys, dict)}
    for override in overrides:
        written[write_override(tree, override)] = override
    for section, kind in [keys for keys in written if len(keys) == 2 and keys[1] == KIND and keys[0] in of_file]:
        # Of a section that was written as a whole nothing in the file is left.
        if (section,) not in written:
            unasked = of_file[section] - {keys[1] for keys in written if keys[0] == section}
            _leave_out(tree[section], unasked, section, str(tree[section][kind]))
    settings = _validate(tree, path, written)
    return _anchor(settings, path.parent, written)


def _locate(name: str) -> Path:
    preset = PRESETS / f"{name}.yaml"
    if name in presets():
        return preset
    path = Path(name).expanduser()
    if path.is_file():
        return path
    found = "a folder" if path.is_dir() else "nothing of that name"
    raise ConfigError(f"{name}: expected a preset ({', '.join(presets())}) or a YAML file, got {found}; check the path")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a readable UTF-8 file, got {error}; check the file") from error
    tree = parse(text, where=str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: expected a mapping of sections, got a {type(tree).__name__}; write `key: value` lines"
        )
    return tree


def _leave_out(section: dict[str, Any], unasked: set[str], name: str, kind: str) -> None:
    """Take out of a section what its file says of another kind than was asked for at the command line."""
    kinds = sections_of(Settings.model_fields[name]) if name in Settings.model_fields else {}
    known = kinds[kind].model_fields.keys() if kind in kinds else section.keys()
    for key in unasked - known:
        if any(key in other.model_fields for other in kinds.values()):
            del section[key]


def _validate(tree: Mapping[str, Any], path: Path, written: Mapping[tuple[str, ...], str]) -> Settings:
    # JSON is the strict mode in which a list is still a tuple and a string still a path, but "8" is no number.
    try:
        return Settings.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(describe(error, str(path), written)) from error


def _anchor(settings: Settings, beside: Path, written: Mapping[tuple[str, ...], str]) -> Settings:
    """The same settings with relative paths made absolute; `beside` is the YAML file's folder."""

    def model(section: str, name: str) -> str:
        # What was written at the command line is relative to where it was written.
        return _existing(name, None if (section, "model") in written else beside) or name

    files = {
        key: Path(_existing(str(value), beside) or value).absolute()
        for key in ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
        if (value := getattr(settings.stream, key)) is not None
    }
    features, base = settings.features, settings.base
    return settings.model_copy(
        update={
            "home": settings.home.expanduser().absolute(),
            "base": base.model_copy(update={"model": model("base", base.model)}),
            "features": features.model_copy(
                update={"model": None if features.model is None else model("features", features.model)}
            ),
            "stream": settings.stream.model_copy(update=files),
        }
    )


def _existing(name: str, beside: Path | None) -> str | None:
    """The absolute path that `name` stands for, or None: it may be a hub name, or a mistake that `checks` finds."""
    folders = [folder for folder in (beside, Path.cwd(), REPOSITORY) if folder is not None]
    for folder in folders:
        candidate = (folder / Path(name).expanduser()).resolve()
        if candidate.exists():
            return str(candidate)
    return None
