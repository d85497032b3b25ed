"""Homes that earlier versions wrote are refused, and left as they are."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from registry.errors import OldHome
from registry.manifest import Manifest
from registry.records import sealed
from registry.registry import Registry
from tests.registry.places import files

Publish = Callable[..., Manifest]


@pytest.mark.parametrize(
    "left",
    ["snapshots/000001.safetensors", "frozen/standardisation.safetensors", "adapters/news@v1-0a1b2c3d/anabranch.json"],
)
def test_homes_of_the_first_version_are_refused_in_one_line(tmp_path: Path, left: str) -> None:
    """Also before the first snapshot."""
    file = tmp_path / "registry" / left
    (tmp_path / "registry" / "frozen").mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    with pytest.raises(OldHome, match=r"written by Anabranch 0\.1.*begin a new home") as refused:
        Registry(tmp_path / "registry")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "registry" / "lineage.json").exists(), "nothing was touched"


@pytest.mark.parametrize("written", [None, 2])
def test_homes_of_earlier_formats_are_refused_in_one_line(
    registry: Registry, publish: Publish, written: int | None
) -> None:
    """The first named no format."""
    publish()
    head = asdict(registry.head()) | ({} if written is None else {"format": written, "lineage": registry.lineage})
    (files(registry) / "head.json").write_bytes(sealed(head, "head.json"))
    expected = rf"homes are of format {written or 1}, this one reads 3.*begin a new home"
    with pytest.raises(OldHome, match=expected) as refused:
        Registry(registry.storage)
    assert "\n" not in str(refused.value)
