"""Finding, hashing and partly reading a base model's files."""

import shutil
from pathlib import Path

import pytest

from learning.checkpoint import base_digest, read_tensors, resolve, weight_files
from learning.errors import CheckpointError


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_digest_moves_with_config_weights_and_tokenizer(llama: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    assert base_digest(copy) == base_digest(llama)
    (copy / "notes.txt").write_text("of no concern")
    assert base_digest(copy) == base_digest(llama)
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(bytes(content))
    assert base_digest(copy) != base_digest(llama)


def test_only_wanted_tensors_are_read(llama: Path) -> None:
    tensors = read_tensors(llama, lambda name: "layers.1." in name)
    assert tensors and all("layers.1." in name for name in tensors)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected config\.json and safetensors"):
        base_digest(tmp_path)
    shutil.copy(llama / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"missing \['model-1\.safetensors'\]"):
        weight_files(tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder here nor a repository"):
        resolve("nobody/has-this-model")
