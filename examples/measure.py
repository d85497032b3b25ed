"""Measure what the demo rests on: ``python -m examples.measure --base examples/base --stream examples/stream``.

For each domain: exact match of the base, seconds to train a LoRA adapter above the frozen layers (PEFT, one thread,
float32), exact match of the adapter on the test rows. Then how well ridge regression over random ReLU features of the
frozen layers' pooled states tells the domains apart. Exact match is teacher-forced: all tokens of the answer and its
<eos> being the first choice is the same as greedy decoding giving exactly that answer.
This module knows nothing of the service but the text that features are scaled by; it uses PEFT and torch alone.
"""

import argparse
import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from examples.pretraining.mixture import collate
from examples.pretraining.tokenizer import encode_turn
from learning.calibration import prompts

Turn = tuple[list[int], int]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Adaptation:
    """How one domain's adapter is trained."""

    frozen_layers: int = 2
    rank: int = 16
    alpha: int = 32
    rate: float = 4e-3
    batch: int = 8
    steps: int = 320
    warmup: int = 10


def read(stream: Path, part: str) -> dict[str, list[dict[str, str]]]:
    """The rows of every domain, by slug, in the order of the files' names."""
    files = sorted(stream.glob(f"*.{part}.jsonl"))
    return {f.name.split(".")[0]: [json.loads(line) for line in f.read_bytes().splitlines()] for f in files}


def turns(rows: list[dict[str, str]]) -> list[Turn]:
    """The rows as token ids with the length of the prompt."""
    return [encode_turn(row["prompt"], row["completion"]) for row in rows]


@torch.inference_mode()
def exact_match(model: torch.nn.Module, chosen: list[Turn]) -> float:
    """The share of turns whose answer and <eos> are all the model's first choice."""
    ids_BT, weights_BT = collate(chosen)
    choice_BT = model(input_ids=ids_BT[:, :-1]).logits.argmax(-1)
    return float(((choice_BT == ids_BT[:, 1:]) | (weights_BT[:, 1:] < 1.0)).all(1).float().mean())


def length_buckets(chosen: list[Turn], size: int, rng: random.Random) -> Iterator[list[Turn]]:
    """Endless batches of turns of similar length, every turn once a round."""
    while True:
        order = sorted(chosen, key=lambda turn: (len(turn[0]) // 8, rng.random()))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        rng.shuffle(groups)
        yield from groups


def adapt(base: PreTrainedModel, chosen: list[Turn], plan: Adaptation) -> PeftModel:
    """A PEFT model with a new adapter in the layers from ``plan.frozen_layers`` on; unload it to get the base back."""
    torch.manual_seed(0)
    layers = list(range(plan.frozen_layers, base.config.num_hidden_layers))
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=TARGETS, layers_to_transform=layers)
    model: PeftModel = get_peft_model(base, config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
    supply = length_buckets(chosen, plan.batch, random.Random(0))
    for step in range(plan.steps):
        warm = min(1.0, (step + 1) / plan.warmup)
        optimiser.param_groups[0]["lr"] = plan.rate * warm * 0.5 * (1 + math.cos(math.pi * step / plan.steps))
        ids_BT, weights_BT = collate(next(supply))
        answer_BT = weights_BT[:, 1:] == 1.0
        logits_NV = model(input_ids=ids_BT[:, :-1]).logits[answer_BT]
        loss = functional.cross_entropy(logits_NV, ids_BT[:, 1:][answer_BT])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return model


@torch.inference_mode()
def pooled(base: PreTrainedModel, chosen: list[Turn], layers: list[int]) -> torch.Tensor:
    """Mean, maximum and deviation over the prompt's tokens of some layers' states: ``[rows, 3 * layers * width]``."""
    groups: dict[int, list[int]] = defaultdict(list)
    for row, (_, prompt_length) in enumerate(chosen):
        groups[prompt_length].append(row)
    result = torch.empty(len(chosen), 3 * len(layers) * base.config.hidden_size, dtype=torch.float64)
    for prompt_length, rows in groups.items():
        ids_BT = torch.tensor([chosen[row][0][:prompt_length] for row in rows])
        states = base.base_model(input_ids=ids_BT, output_hidden_states=True).hidden_states
        parts = [states[layer].double() for layer in layers]
        result[rows] = torch.cat([v for x in parts for v in (x.mean(1), x.amax(1), x.std(1, unbiased=False))], dim=1)
    return result


def routing(
    train: list[torch.Tensor], test: list[torch.Tensor], calibrating: torch.Tensor, expansion: int, ridge: float
) -> float:
    """Accuracy of ridge regression over random ReLU features, standardised on the rows of the calibration text."""
    mean, scale = calibrating.mean(0), calibrating.std(0)
    # What hardly varies would be blown up.
    scale = torch.where(scale > 1e-3 * scale.median(), scale, torch.ones_like(scale))
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(mean.numel(), expansion, generator=generator, dtype=torch.float64) / mean.numel() ** 0.5
    x_ND, z_ND = (torch.relu(((torch.cat(part) - mean) / scale) @ mix) for part in (train, test))
    label_N, truth_N = (torch.cat([torch.full((len(p),), k) for k, p in enumerate(part)]) for part in (train, test))
    gram_DD = x_ND.T @ x_ND + ridge * torch.eye(expansion, dtype=torch.float64)
    weight_DK = torch.linalg.solve(gram_DD, x_ND.T @ functional.one_hot(label_N).double())
    return float((((z_ND @ weight_DK).argmax(1)) == truth_N).double().mean())


def main() -> None:
    """Measure and print; ``--domains`` limits the adapters, ``--routing`` measures routing alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    parser.add_argument("--base", type=Path, default=here / "base")
    parser.add_argument("--stream", type=Path, default=here / "stream")
    parser.add_argument("--domains", nargs="*", help="slugs; all by default")
    parser.add_argument("--routing", action="store_true", help="routing alone")
    for name, value in vars(Adaptation()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = parser.parse_args()
    plan = Adaptation(**{name: getattr(arguments, name) for name in vars(Adaptation())})
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32).train(False)
    train, test = read(arguments.stream, "train"), read(arguments.stream, "test")
    domains = arguments.domains or list(train)
    for slug in [] if arguments.routing else domains:
        before = exact_match(base, turns(test[slug]))
        started, worked = time.monotonic(), time.process_time()
        model = adapt(base, turns(train[slug]), plan)
        seconds, worked = time.monotonic() - started, time.process_time() - worked
        after = exact_match(model.train(False), turns(test[slug]))
        base = model.unload()
        print(f"{slug:16s} base {before:.3f}  adapter {after:.3f}  {seconds:.1f} s ({worked:.1f} s of CPU)", flush=True)
    layers = list(range(plan.frozen_layers + 1))
    # One layer more than is read: the last state of a Hugging Face trunk has passed the final norm.
    base.model.layers = base.model.layers[: plan.frozen_layers + 1]
    seen, unseen = ([pooled(base, turns(part[slug]), layers) for slug in train] for part in (train, test))
    calibrating = pooled(base, turns([{"prompt": prompt, "completion": ""} for prompt in prompts()]), layers)
    for expansion in (1024, 2048):
        for ridge in (1.0, 10.0, 100.0):
            share = routing(seen, unseen, calibrating, expansion, ridge)
            print(f"routing expansion {expansion} ridge {ridge:g}: {share:.4f}")


if __name__ == "__main__":
    main()
