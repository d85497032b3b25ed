"""PEFT adapters as people bring them: made by PEFT on a base's folder, and ways to spoil one."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TARGETS = ("q_proj", "v_proj", "down_proj")


def write_adapter(
    folder: Path, base: Path, *, targets: Any = TARGETS, size: float = 0.05, seed: int = 0, **config: Any
) -> Path:
    """A PEFT adapter of rank 4 on that base, in all of its layers, whose B is drawn with deviation `size`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **config}
    named = targets if isinstance(targets, str) else list(targets)
    adapted = get_peft_model(model, LoraConfig(target_modules=named, **options))
    for name, each in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each.data, std=size)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def first(folder: Path, end: str) -> str:
    return min(name for name in tensors_of(folder) if name.endswith(end))


Spoil = Callable[[Path], None]


def changed(change: Callable[[dict[str, Tensor]], None]) -> Spoil:
    """With other tensors."""

    def spoil(folder: Path) -> None:
        tensors = tensors_of(folder)
        change(tensors)
        save_file({name: each.contiguous() for name, each in tensors.items()}, folder / WEIGHTS)

    return spoil


def each_of(end: str, change: Callable[[Tensor], Tensor], only_first: bool = True) -> Spoil:
    def change_all(tensors: dict[str, Tensor]) -> None:
        names = sorted(name for name in tensors if name.endswith(end))
        for name in names[:1] if only_first else names:
            tensors[name] = change(tensors[name])

    return changed(change_all)


def configured(**entries: Any) -> Spoil:
    """With other entries in its configuration."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **entries}))

    return spoil


def written(name: str, content: bytes) -> Spoil:
    """With this in one of its files."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def with_value(value: float) -> Spoil:
    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[0, 0] = value
        return tensor

    return each_of("lora_B.weight", change)


def renamed(old: str, new: str) -> Spoil:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return changed(change)


def header(change: Callable[[str], str]) -> Spoil:
    """With another header before the same bytes."""

    def spoil(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        text = change(content[8 : 8 + length].decode()).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return spoil


def pickle_only(folder: Path) -> None:
    torch.save(tensors_of(folder), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


class Bomb:
    """Leaves a mark wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self._mark,)


def pickle_beside(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "unpickled")))


def link(name: str, target: str) -> Spoil:
    def spoil(folder: Path) -> None:
        outside = folder.parent / "outside"
        outside.mkdir()
        (folder / WEIGHTS).rename(outside / WEIGHTS)
        (folder / name).symlink_to(target)

    return spoil


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-5])


def longer(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b"x")


def twice(text: str) -> str:
    """A header that names its first tensor twice."""
    name = next(key for key in json.loads(text) if key != "__metadata__")
    entry = json.dumps({name: json.loads(text)[name]})[1:-1]
    return "{" + entry + ", " + text[1:]


def overlapping(text: str) -> str:
    """A header by which two tensors of one size share their bytes."""
    parsed = json.loads(text)
    names = [name for name in parsed if name != "__metadata__"]
    one = names[0]
    other = next(name for name in names[1:] if parsed[name]["shape"] == parsed[one]["shape"])
    parsed[other]["data_offsets"] = parsed[one]["data_offsets"]
    return json.dumps(parsed)


def index(folder: Path) -> None:
    """Shards, one of them elsewhere."""
    weight_map = {"weight_map": {name: "../../etc/passwd" for name in tensors_of(folder)}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(weight_map))


def drop(end: str) -> Spoil:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[min(name for name in tensors if name.endswith(end))]

    return changed(change)


def added(name: str, shape: tuple[int, ...]) -> Spoil:
    return changed(lambda tensors: tensors.update({name: torch.ones(shape)}))


def facts(digest: str, delta: str = "") -> Spoil:
    return written("anabranch.json", json.dumps({"facts": {"base_digest": digest, "base_delta": delta}}).encode())


CORRUPT: dict[str, tuple[Spoil, str]] = {
    "shape of B": (each_of("lora_B.weight", lambda b: b[:-1]), "expected shape .* another base or rank"),
    "shape of A": (each_of("lora_A.weight", lambda a: a.T), "expected shape"),
    "NaN": (with_value(float("nan")), "expected finite numbers, got NaN"),
    "infinity": (with_value(float("-inf")), "expected finite numbers"),
    "a thousandfold norm": (configured(lora_alpha=8000), "expected a change of norm at most"),
    "a norm that overflows": (each_of("lora_B.weight", lambda b: b * 1e38, False), "norm at most|finite"),
    "nothing learned": (each_of("lora_B.weight", torch.zeros_like, False), "changes something"),
    "pickle only": (pickle_only, "pickled weights .*never opened"),
    "link": (link(WEIGHTS, f"../outside/{WEIGHTS}"), "got the link"),
    "link beside": (link("more", "/etc"), "got the link"),
    "link to nowhere": (link(WEIGHTS, "nowhere"), "got the link"),
    "pipe": (pipe, "expected a plain file"),
    "shards elsewhere": (index, "which names others"),
    "path in a name": (renamed("q_proj", "../../q_proj"), "expected a linear module .*none of that name"),
    "other names": (renamed("base_model.model.", ""), "expected base_model.model"),
    "name of an adapter": (renamed(".weight", ".default.weight"), "only plain LoRA"),
    "embeddings": (added("base_model.model.model.embed_tokens.lora_embedding_A", (4, 260)), "only plain LoRA"),
    "head": (added("base_model.model.lm_head.lora_A.weight", (4, 32)), "embeddings and heads can't be adapted"),
    "layer too many": (renamed("layers.3.", "layers.4."), "expected a linear module"),
    "norm of a layer": (renamed("self_attn.q_proj", "input_layernorm"), "expected a linear module"),
    "DoRA": (configured(use_dora=True), "use_dora: expected plain LoRA"),
    "unknown kind": (configured(use_newdora=True), "use_newdora: expected plain LoRA"),
    "biases": (configured(bias="lora_only"), "bias: expected none"),
    "modules to save": (configured(modules_to_save=["lm_head"]), "modules_to_save"),
    "rank pattern": (configured(rank_pattern={"q_proj": 2}), "rank_pattern"),
    "other parameters": (configured(target_parameters=["mlp.experts"]), "target_parameters"),
    "PiSSA": (configured(init_lora_weights="pissa"), "init_lora_weights: expected a start that leaves the base alone"),
    "not LoRA": (configured(peft_type="IA3"), "expected peft_type LORA, got 'IA3'"),
    "for sequences": (configured(task_type="SEQ_CLS"), "task_type"),
    "rank too high": (configured(r=64), "rank of at most 16, got 64"),
    "rank zero": (configured(r=0), "r: expected a rank of at least 1"),
    "rank true": (configured(r=True), "r: expected a rank"),
    "rank in words": (configured(r="4"), "r: expected a rank"),
    "another rank": (configured(r=8), "expected shape .* for rank 8"),
    "alpha none": (configured(lora_alpha=None), "lora_alpha"),
    "alpha below zero": (configured(lora_alpha=-8), "lora_alpha"),
    "no targets": (configured(target_modules=[]), "target_modules"),
    "targets without tensors": (configured(target_modules=[*TARGETS, "k_proj"]), "expected tensors of .*k_proj"),
    "missing B": (drop("lora_B.weight"), "expected lora_A and lora_B, got no lora_B"),
    "missing A": (drop("lora_A.weight"), "got no lora_A"),
    "integers": (each_of("lora_A.weight", lambda a: a.to(torch.int8)), "expected F32, F16 or BF16, got I8"),
    "doubles": (each_of("lora_A.weight", lambda a: a.double()), "expected F32, F16 or BF16, got F64"),
    "no tensors": (changed(lambda tensors: tensors.clear()), "expected tensors, got none"),
    "empty file": (written(WEIGHTS, b""), "expected a whole safetensors file, got 0 bytes"),
    "no file": (lambda folder: (folder / WEIGHTS).unlink(), "got no weights"),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), f"{CONFIG}: expected a file"),
    "cut short": (cut, "cut short"),
    "bytes behind": (
        lambda folder: written(WEIGHTS, (folder / WEIGHTS).read_bytes() + b"x")(folder),
        "cut short or added",
    ),
    "name twice": (header(twice), "twice"),
    "overlap": (header(overlapping), "a gap or an overlap"),
    "header too long": (written(WEIGHTS, (1 << 62).to_bytes(8, "little") + b"{}"), "end in its header"),
    "header of megabytes": (header(lambda text: text + " " * (5 << 20)), "at most|expected a header of"),
    "header of brackets": (written(WEIGHTS, (90_000).to_bytes(8, "little") + b"[" * 90_000), "header to be JSON"),
    "header no mapping": (written(WEIGHTS, (2).to_bytes(8, "little") + b"[]"), "a header that is a JSON object"),
    "offsets below zero": (header(lambda text: text.replace("[0,", "[-1,")), "data_offsets"),
    "type unknown": (header(lambda text: text.replace('"F32"', '"F31"', 1)), "known type"),
    "a larger file than any": (written(WEIGHTS, bytes(6 << 20)), "expected at most"),
    "configuration no JSON": (written(CONFIG, b"\xff{"), f"{CONFIG} to be JSON"),
    "configuration a list": (written(CONFIG, b"[]"), "peft_type"),
    "configuration of NaN": (lambda folder: configured(lora_alpha=float("nan"))(folder), "the number NaN"),
    "configuration of megabytes": (written(CONFIG, b" " * (2 << 20)), "expected at most"),
    "entry twice": (written(CONFIG, b'{"peft_type": "LORA", "r": 4, "r": 400}'), "twice"),
    "of another base by its facts": (facts("0" * 64), "expected the base .* got one of the base 00000000"),
    "of a changed base by its facts": (facts("b" * 64, "1" * 64), "expected the base"),
    "facts that are none": (written("anabranch.json", b"{}"), "expected an adapter's facts"),
}
"""Ways to spoil an adapter, and what is said of each."""
