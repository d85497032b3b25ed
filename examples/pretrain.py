"""Pre-train the small base model from nothing, in two stages:

    python -m examples.pretrain --stage 1 --out FIRST
    python -m examples.pretrain --stage 2 --start FIRST --out DIR

A byte-level Llama learns made-up text transformations, then invented domains as well (see ``examples.pretraining``),
and is written as a Hugging Face folder: config, float32 weights, tokenizer with chat template, generation config, model
card. Hidden matrices are updated by Muon, the rest by AdamW; the learning rate warms up, stays, and decays linearly to
zero. With ``--steps`` a run is reproducible on the same hardware and thread count; with ``--minutes`` the schedule
follows the clock. This module does not know the demo's domains.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from examples.pretraining.card import model_card
from examples.pretraining.material import Material, gather
from examples.pretraining.mixture import Mixture, batches, collate, stage
from examples.pretraining.muon import Muon
from examples.pretraining.tokenizer import BOS, EOS, PAD, VOCABULARY_SIZE, byte_tokenizer, encode_turn


@dataclass(frozen=True)
class Recipe:
    """What decides a run; ``minutes`` replaces ``steps`` as the length of the schedule where it is given."""

    seed: int = 0
    stage: int = 1
    steps: int = 1900
    minutes: float | None = None
    tokens_per_batch: int = 3072
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    warmup: float = 0.03
    decay: float = 0.5
    weight_decay: float = 0.05

    def rate(self, progress: float) -> float:
        """The factor on the learning rates at a progress from 0 to 1."""
        return min(1.0, progress / self.warmup + 0.02, max(0.0, 1.0 - progress) / self.decay)


def architecture() -> LlamaConfig:
    """1.9 million parameters; heads of 32 dimensions, the smallest that vLLM's CPU attention takes."""
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def optimisers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for embedding and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    return [
        Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def weighted_loss(model: LlamaForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Mean next-token cross-entropy in nats under the weights of the targets.

    No attention mask is needed: rows are padded on the right, and a causal model never looks there.
    """
    logits_BTV = model(input_ids=ids_BT[:, :-1]).logits
    losses_N = functional.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    weights_N = weights_BT[:, 1:].flatten()
    return (losses_N * weights_N).sum() / weights_N.sum()


def exact_match_by_task(
    model: LlamaForCausalLM, material: Material, mixture: Mixture, seed: int, count: int = 60
) -> dict[str, float]:
    """The share of fresh exchanges of each transformation whose answer and <eos> are all the model's first choice."""
    rng = random.Random(seed)
    shares = {}
    for transformation in mixture.transformations:
        turns = [encode_turn(p, c) for p, c in (transformation(rng, material) for _ in range(count)) if c]
        ids_BT, weights_BT = collate(turns)
        with torch.inference_mode():
            choice_BT = model(input_ids=ids_BT[:, :-1]).logits.argmax(-1)
        right_BT = (choice_BT == ids_BT[:, 1:]) | (weights_BT[:, 1:] < 1.0)
        shares[transformation.__name__] = right_BT.all(1).float().mean().item()
    return shares


def train(model: LlamaForCausalLM, material: Material, mixture: Mixture, recipe: Recipe) -> dict[str, float]:
    """Run the recipe in place; returns steps, tokens, minutes and the smoothed final loss in nats."""
    groups = optimisers(model, recipe)
    peaks = [group.param_groups[0]["lr"] for group in groups]
    stream = batches(random.Random(recipe.seed + recipe.stage), material, mixture, recipe.tokens_per_batch)
    started, step, tokens, smooth, progress = time.monotonic(), 0, 0, math.nan, 0.0
    while progress < 1.0:
        ids_BT, weights_BT = next(stream)
        for group, peak in zip(groups, peaks, strict=True):
            group.param_groups[0]["lr"] = peak * recipe.rate(progress)
        loss = weighted_loss(model, ids_BT, weights_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in groups:
            group.step()
            group.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + ids_BT.numel()
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        minutes = (time.monotonic() - started) / 60
        progress = minutes / recipe.minutes if recipe.minutes else step / recipe.steps
        if step % 100 == 0:
            print(f"step {step}  {minutes:.1f} min  {tokens / 1e6:.2f} M tokens  loss {smooth:.3f}", flush=True)
    return {"steps": step, "tokens": tokens, "minutes": minutes, "loss": smooth}


def save(model: LlamaForCausalLM, out: Path) -> None:
    """Write what transformers and vLLM load."""
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=64
    )
    model.save_pretrained(out)
    byte_tokenizer(model.config.max_position_embeddings).save_pretrained(out, save_jinja_files=False)


def main() -> None:
    """Parse the command line, train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="mixture to train on")
    parser.add_argument("--start", type=Path, help="folder of the stage before; without it the weights are random")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--minutes", type=float, help="length by the clock instead of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    given = parser.parse_args()
    recipe = Recipe(seed=given.seed, stage=given.stage, steps=given.steps, minutes=given.minutes)
    torch.set_num_threads(given.threads)
    torch.manual_seed(recipe.seed)
    material = gather(recipe.seed)
    mixture = stage(recipe.stage, recipe.seed, material)
    if given.start:
        model = LlamaForCausalLM.from_pretrained(given.start, dtype=torch.float32).train()
        runs = json.loads((given.start / "training.json").read_text())
    else:
        model, runs = LlamaForCausalLM(architecture()), []  # type: ignore[no-untyped-call]
    outcome = train(model, material, mixture, recipe)
    runs.append({**asdict(recipe), "threads": given.threads, "by_clock": bool(given.minutes), **outcome})
    save(model.eval(), given.out)
    (given.out / "training.json").write_text(json.dumps(runs, indent=1) + "\n")
    skills = exact_match_by_task(model, material, mixture, seed=recipe.seed + 100)
    (given.out / "README.md").write_text(model_card(model, runs, skills))


if __name__ == "__main__":
    main()
