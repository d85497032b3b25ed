"""Every YAML file of the repository is readable, and every one that is a configuration loads."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from configs.loader import load
from configs.settings import Settings

REPOSITORY = Path(__file__).parents[2]


def yaml_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.yaml", "*.yml"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := REPOSITORY / line).is_file()]


def is_config(document: object) -> bool:
    """Ours are mappings with a base model and no API version, service or other tool's marks."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("base"), dict)
        and not {"apiVersion", "services"} & document.keys()
        and bool(Settings.model_fields.keys() & document.keys())
    )


def embedded_configs(document: object) -> Iterator[str]:
    """Configurations carried as text in a Kubernetes ConfigMap."""
    if isinstance(document, dict) and document.get("kind") == "ConfigMap":
        for name, text in (document.get("data") or {}).items():
            if name.endswith((".yaml", ".yml")) and is_config(yaml.safe_load(text)):
                yield text


@pytest.mark.parametrize("path", yaml_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_it_parses_and_loads(path: Path, tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert documents
    for document in documents:
        if is_config(document):
            load(path)
        for number, text in enumerate(embedded_configs(document)):
            carried = tmp_path / f"{number}.yaml"
            carried.write_text(text, encoding="utf-8")
            load(carried)


def test_everything_in_presets_counts_as_a_configuration() -> None:
    for path in (REPOSITORY / "configs" / "presets").glob("*.yaml"):
        assert is_config(yaml.safe_load(path.read_text(encoding="utf-8")))
