"""A model's files: where they are, what they hash to, and reading chosen tensors without the rest.

Does not know what a tensor is used for, nor of adapters. Weights are read from safetensors only: nothing is unpickled.
Weights are gigabytes: what they hash to is computed once a machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from learning.architecture import read_config, text_part
from learning.catalogue import located
from learning.digest_cache import remembered
from learning.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", *_TOKENIZER_FILES]


def resolve(model: str | Path) -> Path:
    """The folder of a model given as a folder, a name of the catalogue or a Hugging Face repository name."""
    folder = Path(located(str(model)))
    if folder.is_dir():
        return folder
    # A hub client takes a quarter of a second to import, and most bases are folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model), allow_patterns=_PATTERNS))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"base model {str(model)!r}: neither a folder here nor a repository that can be fetched "
            f"({type(error).__name__}); give a folder in Hugging Face layout"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted. Raises `CheckpointError` where there are none."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files or not (folder / "config.json").is_file():
        raise CheckpointError(
            f"base model {folder}: expected config.json and safetensors weights, "
            + (f"missing {missing}" if missing else f"found {sorted(file.name for file in folder.iterdir())}")
        )
    return files


def layer_count(folder: Path) -> int:
    """How many layers the model's configuration names. Raises `CheckpointError` where it names none."""
    count = text_part(read_config(folder)).get("num_hidden_layers")
    if not isinstance(count, int):
        raise CheckpointError(f"model {folder}: expected a config.json with num_hidden_layers, got {count!r}")
    return count


def read_tensors(folder: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """Only the tensors whose name is wanted; the others are never read."""
    tensors: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            tensors.update({name: opened.get_tensor(name) for name in opened.keys() if wanted(name)})  # noqa: SIM118
    return tensors


def base_digest(model_path: str | Path) -> str:
    """sha256 over a base model's config, weights and tokenizer files; file names count, their folder does not."""
    folder = resolve(model_path)
    files = [folder / "config.json", *weight_files(folder), *_tokenizer_files(folder)]
    return files_digest(files)


def files_digest(files: list[Path]) -> str:
    """sha256 over files by their names, whatever folder they lie in."""
    return remembered("files by name", files, lambda: _digest(files))


def tokenizer_digest(folder: Path) -> str:
    """sha256 over the tokenizer files of a folder."""
    return _digest(_tokenizer_files(folder))


def tensors_digest(folder: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over name, type, shape and values of tensors that were read from `folder`, whichever file held them."""
    import torch

    names = sorted(tensors)

    def compute() -> str:
        total = hashlib.sha256()
        for name in names:
            tensor = tensors[name]
            total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            total.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()

    return remembered(f"tensors {names}", weight_files(folder), compute)


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        total.update(f"{file.name}\0{content}\n".encode())
    return total.hexdigest()
