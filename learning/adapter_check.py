"""Whether a PEFT folder made elsewhere is an adapter that this base can take, told without running anything in it.

Read are `adapter_config.json` and `adapter_model.safetensors` alone, of bounded size, never through a link, and nothing
is unpickled. What is kept of the configuration is written anew: it holds only what is known here. Every tensor has to
be an A or a B of a linear module of the base's decoder layers, of its widths, finite, and as large as adapters are
(`learning.adapter_norms`). Layers below those that features come from may be adapted: features have a frozen copy of
theirs. Needs numpy alone; every refusal is a `LearningError` of one line.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from learning.adapter_norms import check_norms, effective_norm
from learning.base_modules import BaseModules
from learning.errors import LearningError
from learning.tensor_file import TensorPlace, matrix, read_entries, strict_json

CONFIG, WEIGHTS, FACTS = "adapter_config.json", "adapter_model.safetensors", "anabranch.json"
_PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"})
_MOST_FILES, _MOST_TEXT_BYTES, _MOST_HEADER_BYTES = 1000, 1 << 20, 4 << 20
_A, _B, _PREFIX = ".lora_A.weight", ".lora_B.weight", "base_model.model."
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
    }
)
"""Entries of a configuration that say nothing which the tensors do not."""
_READ = frozenset(
    {"bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "target_modules", "task_type", "use_rslora"}
)
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base as it is; the others change it, so that such an adapter fits no base but theirs."""


@dataclass(frozen=True)
class CheckedAdapter:
    """An adapter as it may be kept, in two files."""

    config: bytes
    weights: bytes
    rank: int
    norms: Mapping[str, float]
    """Of s B A by module."""
    notes: tuple[str, ...] = ()
    """What was passed over, in words."""


class AdapterCheck:
    """Checks adapters for the base `model`, whose engine takes ranks up to `max_rank`.

    Of the base only the headers of its files are read, and its weights where there is no other adapter to compare with.
    """

    def __init__(self, model: str, max_rank: int) -> None:
        self._model, self._max_rank = model, max_rank

    @cached_property
    def _base(self) -> BaseModules:
        return BaseModules.of(self._model)

    @cached_property
    def most_bytes(self) -> int:
        """What no file of such an adapter exceeds, in float32 and with a header."""
        widths = sum(inputs + outputs for inputs, outputs in self._base.widths.values())
        return 4 * widths * self._max_rank + _MOST_HEADER_BYTES

    def folder(self, folder: Path, base: tuple[str, str], peers: Sequence[Mapping[str, float]]) -> CheckedAdapter:
        """The adapter in a folder of this machine.

        `base` are the digests of the base and of its change in service, `peers` the norms of adapters in service.
        """
        files, notes = _read(folder, self.most_bytes)
        if FACTS in files:
            _check_base(files[FACTS], base)
        checked = self.content(files[CONFIG], files[WEIGHTS], peers)
        return CheckedAdapter(checked.config, checked.weights, checked.rank, checked.norms, (*notes, *checked.notes))

    def content(
        self, config: bytes, weights: bytes, peers: Sequence[Mapping[str, float]], *, as_written: bool = False
    ) -> CheckedAdapter:
        """The same of two files' contents; `as_written` takes no other configuration than this check writes."""
        if max(len(config) / _MOST_TEXT_BYTES, len(weights) / self.most_bytes) > 1:
            raise LearningError(f"expected files that an adapter of this base can have, got {len(weights)} bytes")
        document = _document(config)
        scale, notes = _scale(document), _notes(document, self._model)
        rank = document["r"]
        if rank > self._max_rank:
            raise LearningError(
                f"r: expected a rank of at most {self._max_rank}, got {rank}; raise serving.max_lora_rank"
            )
        file = io.BytesIO(weights)
        try:
            entries = read_entries(file, _MOST_HEADER_BYTES)
            modules = self._modules(entries, rank)
            _check_targets(document, modules)
            norms = {module: _norm(file, entries, module, scale) for module in modules}
        except LearningError as error:
            raise LearningError(f"{WEIGHTS}: {error}") from error
        check_norms(norms, peers, self._base)
        written = _config(document, modules)
        if as_written and config != written:
            raise LearningError(f"{CONFIG}: expected it as this check writes it, got another; add the folder again")
        return CheckedAdapter(written, weights, rank, norms, notes)

    def _modules(self, entries: Mapping[str, TensorPlace], rank: int) -> list[str]:
        """The adapted modules, by their names in the base; each has an A and a B of its widths."""
        modules = sorted({_module(name) for name in entries})
        if not modules:
            raise LearningError("expected tensors, got none")
        for module in modules:
            if module not in self._base.widths:
                raise LearningError(
                    f"{module:.120}: expected a linear module of a decoder layer of this base, got none of that name; "
                    "embeddings and heads can't be adapted, and an adapter of another base fits that one alone"
                )
            inputs, outputs = self._base.widths[module]
            for end, shape in ((_A, (rank, inputs)), (_B, (outputs, rank))):
                entry = entries.get(_PREFIX + module + end)
                if entry is None:
                    raise LearningError(f"{module}: expected lora_A and lora_B, got no {end.split('.')[1]}")
                if entry.shape != shape:
                    raise LearningError(
                        f"{module}{end}: expected shape {list(shape)} for rank {rank} on this base, got "
                        f"{list(entry.shape)[:4]}; it is of another base or rank"
                    )
                if entry.dtype not in ("F32", "F16", "BF16"):
                    raise LearningError(f"{module}{end}: expected F32, F16 or BF16, got {entry.dtype}")
        return modules


def norms_of(config: bytes, weights: bytes) -> dict[str, float]:
    """The norms by module of an adapter that is kept already. Raises `LearningError`."""
    document, file = _document(config), io.BytesIO(weights)
    entries, scale = read_entries(file, _MOST_HEADER_BYTES), _scale(document)
    modules = {_module(name) for name in entries}
    try:
        return {module: _norm(file, entries, module, scale) for module in modules}
    except (KeyError, ValueError) as error:
        raise LearningError(f"expected pairs of A and B, got {type(error).__name__}: {error}") from error


def _norm(file: io.BytesIO, entries: Mapping[str, TensorPlace], module: str, scale: float) -> float:
    a_RI, b_OR = (matrix(file, entries[_PREFIX + module + end]) for end in (_A, _B))
    if not (np.isfinite(a_RI).all() and np.isfinite(b_OR).all()):
        raise LearningError(f"{module}: expected finite numbers, got NaN or infinity")
    return effective_norm(a_RI, b_OR, scale)


def _module(name: str) -> str:
    for end in (_A, _B):
        if name.startswith(_PREFIX) and name.endswith(end):
            return name.removeprefix(_PREFIX).removesuffix(end)
    raise LearningError(
        f"{name!r:.160}: expected {_PREFIX}<module>{_A} or {_B}, got another name; only plain LoRA of linear modules"
    )


# -- the folder -------------------------------------------------------------------------------------------------------


def _read(folder: Path, most_bytes: int) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The files that matter, by name, and what of the folder was passed over."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise LearningError(f"{folder}: expected a PEFT folder, got {error}; check the path") from error
    try:
        names = sorted(os.listdir(opened))
        if len(names) > _MOST_FILES:
            raise LearningError(f"{folder}: expected an adapter's folder, got {len(names)} files in it")
        for name in names:
            if stat.S_ISLNK(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
                raise LearningError(
                    f"{folder}: expected files, got the link {name!r:.80}, which may lead anywhere; copy the folder "
                    "with its contents (cp -rL)"
                )
        if index := [name for name in names if name.endswith(".index.json")]:
            raise LearningError(f"{folder}: expected one file {WEIGHTS}, got {index[0]!r:.80}, which names others")
        pickles = [name for name in names if Path(name).suffix.lower() in _PICKLES]
        if WEIGHTS not in names:
            found = f"pickled weights ({pickles[0]:.80}), which are never opened" if pickles else "no weights"
            raise LearningError(f"{folder}: expected {WEIGHTS}, got {found}; save the adapter as safetensors")
        files = {WEIGHTS: _content(opened, WEIGHTS, most_bytes), CONFIG: _content(opened, CONFIG, _MOST_TEXT_BYTES)}
        if FACTS in names:
            files[FACTS] = _content(opened, FACTS, _MOST_TEXT_BYTES)
        rest = [name for name in names if name not in files]
        return files, (f"passed over, and not opened: {', '.join(rest):.200}",) if rest else ()
    finally:
        os.close(opened)


def _content(folder: int, name: str, most_bytes: int) -> bytes:
    """A plain file's content; whatever is put in its place meanwhile is not followed."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise LearningError(f"{name}: expected a file, got {error.strerror}; save the adapter again") from error
    with os.fdopen(opened, "rb") as file:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise LearningError(f"{name}: expected a plain file, got something else; copy the folder's contents")
        content = file.read(most_bytes + 1) if found.st_size <= most_bytes else b""
    if found.st_size > most_bytes or len(content) > most_bytes:
        raise LearningError(
            f"{name}: expected at most {most_bytes} bytes, got {found.st_size}: no adapter of this base"
        )
    return content


def _check_base(facts: bytes, base: tuple[str, str]) -> None:
    """By what was exported with it, an adapter of this kind of system says which base it stands on."""
    document = strict_json(facts, FACTS)
    found = document.get("facts") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise LearningError(f"{FACTS}: expected an adapter's facts, got none; remove the file or export it again")
    given = (found.get("base_digest"), found.get("base_delta", ""))
    if given != base:
        digests = [f"{digest!s:.8}, changed by {delta or 'nothing'!s:.8}" for digest, delta in (base, given)]
        raise LearningError(f"{FACTS}: expected the base {digests[0]}, got one of the base {digests[1]}")


# -- the configuration ------------------------------------------------------------------------------------------------


def _document(config: bytes) -> dict[str, Any]:
    """The configuration, which says nothing that is not known here."""
    document = strict_json(config, CONFIG)
    if not isinstance(document, dict) or document.get("peft_type") != "LORA":
        kind = document.get("peft_type") if isinstance(document, dict) else type(document).__name__
        raise LearningError(f"{CONFIG}: expected peft_type LORA, got {kind!r:.40}")
    for name, value in document.items():
        # What is empty or off has no effect, known or not.
        if name not in _READ and name not in _WITHOUT_EFFECT and value not in (None, False, "", [], {}):
            raise LearningError(
                f"{CONFIG}: {name:.60}: expected plain LoRA, got {value!r:.60}; the engine can't serve that: merge it "
                "or train without"
            )
    _check_values(document)
    return document


def _check_values(document: Mapping[str, Any]) -> None:
    rank, alpha, targets = document.get("r"), document.get("lora_alpha"), document.get("target_modules")
    for name, is_right, expected in (
        ("r", type(rank) is int and int(rank) >= 1, "a rank of at least 1"),
        ("lora_alpha", type(alpha) in (int, float) and 0.0 < float(alpha or 0) < 1e6, "a number above 0"),
        ("bias", document.get("bias", "none") == "none", "none: the engine serves no biases"),
        ("task_type", document.get("task_type") in (None, "CAUSAL_LM"), "CAUSAL_LM"),
        ("use_rslora", document.get("use_rslora", False) in (None, True, False), "true or false"),
        ("init_lora_weights", document.get("init_lora_weights", True) in _STARTS, "a start that leaves the base alone"),
        ("target_modules", isinstance(targets, str) or _are_texts(targets), "names of modules"),
    ):
        if not is_right:
            raise LearningError(f"{CONFIG}: {name}: expected {expected}, got {document.get(name)!r:.60}")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(each, str) for each in values)


def _scale(document: Mapping[str, Any]) -> float:
    rank, alpha = document["r"], document["lora_alpha"]
    return float(alpha / (math.sqrt(rank) if document.get("use_rslora") else rank))


def _notes(document: Mapping[str, Any], model: str) -> tuple[str, ...]:
    hint = document.get("base_model_name_or_path")
    if not isinstance(hint, str) or not hint or Path(hint).name == Path(model).name:
        return ()
    return (f"it says that it was trained on {hint:.200}, here the base is {model}: names, which prove nothing",)


def _check_targets(document: Mapping[str, Any], modules: Sequence[str]) -> None:
    """A pattern, or a shorthand, is what its tensors say; names in a list have to be those of the tensors."""
    targets, found = document["target_modules"], {module.rsplit(".", 1)[-1] for module in modules}
    named = {each.rsplit(".", 1)[-1] for each in targets} if isinstance(targets, list) else found
    if named != found:
        wrong = f"expected tensors of {sorted(named)}, as the configuration says, got those of {sorted(found)}"
        raise LearningError(f"target_modules: {wrong:.300}")


def _config(document: Mapping[str, Any], modules: Sequence[str]) -> bytes:
    """The configuration that is kept: equal adapters have equal bytes."""
    hint = document.get("base_model_name_or_path")
    kept = {
        "base_model_name_or_path": hint[:500] if isinstance(hint, str) else None,
        "bias": "none",
        "inference_mode": True,
        "layers_to_transform": sorted({int(module.split(".layers.")[1].split(".")[0]) for module in modules}),
        "lora_alpha": document["lora_alpha"],
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": document["r"],
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "task_type": "CAUSAL_LM",
        "use_rslora": bool(document.get("use_rslora")),
    }
    return (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode()
