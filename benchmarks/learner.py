"""A learner in little memory against a plain one: the same loss, the same adapter, how much less memory.

Both train a LoRA adapter on the same random base (a wide toy: a vocabulary of 32,000 on a width of 512) for the same
steps of 8 rows of 1,024 tokens, half of each a completion. Plain takes a batch at once and all logits with it; lean
takes a row at a time, keeps what enters each layer only, and makes a chunk of logits at a time. Each run has a process
of its own, plain and lean by turns; memory is what the process grows by at its peak. Run it with
`python -m benchmarks.learner`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.footprint import apart, footprint
from benchmarks.hardware import describe

RESULT = Path(__file__).parent / "results" / "learner.json"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"logit_chunk": 2**20},
    "lean": {"micro_batch_tokens": 1024, "gradient_checkpointing": True, "logit_chunk": 256},
}
_ROWS, _TOKENS, _VOCABULARY, _WIDTH, _LAYERS, _FROZEN = 8, 1024, 32_000, 512, 6, 2


def main() -> None:
    """Run the benchmark, print its table and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anabranch-learner-") as folder:
        result = measure(Path(folder), options.steps, options.rounds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def measure(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("torch", "transformers", "peft", "numpy"))
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way, changes in WAYS.items():
            runs[way].append(apart(train, folder / f"{way}-{number}", changes, steps))
    found = {
        way: {
            "options": changes,
            "peak_growth_mib": [run["growth_mib"] for run in runs[way]],
            "seconds": [run["seconds"] for run in runs[way]],
            "losses": runs[way][0]["losses"],
        }
        for way, changes in WAYS.items()
    }
    peaks = {way: median(figures["peak_growth_mib"]) for way, figures in found.items()}
    seconds = {way: median(figures["seconds"]) for way, figures in found.items()}
    pairs = list(zip(found["plain"]["losses"], found["lean"]["losses"], strict=True))
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "base": {"vocabulary": _VOCABULARY, "width": _WIDTH, "layers": _LAYERS, "frozen_layers": _FROZEN},
        "batch": {"rows": _ROWS, "tokens": _TOKENS, "completion_tokens": _TOKENS // 2},
        "steps": steps,
        "ways": found,
        "peak_ratio": round(peaks["lean"] / peaks["plain"], 4),
        "time_ratio": round(seconds["lean"] / seconds["plain"], 2),
        "greatest_loss_difference": max(abs(plain - lean) for plain, lean in pairs),
        "adapter": apart(difference, folder / "plain-0", folder / "lean-0"),
    }


def train(folder: Path, changes: dict[str, Any], steps: int) -> dict[str, Any]:
    """One training in this process; leaves its adapter in `folder`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from learning.completion_loss import CompletionLoss, EncodedExample
    from learning.lora_options import LoraOptions
    from learning.optimiser import rate_groups
    from learning.output_layer import OutputLayer
    from learning.token_budget import TokenBudget
    from learning.training import Training

    options = LoraOptions(batch_size=_ROWS, max_steps=steps, max_epochs=steps, **changes)
    torch.manual_seed(0)
    sizes = {"vocab_size": _VOCABULARY, "hidden_size": _WIDTH, "intermediate_size": 3 * _WIDTH}
    heads = {"num_hidden_layers": _LAYERS, "num_attention_heads": 8, "max_position_embeddings": _TOKENS}
    shape = AutoConfig.for_model("llama", **sizes, **heads)
    base = AutoModelForCausalLM.from_config(shape).requires_grad_(False)  # type: ignore[no-untyped-call]
    layers = list(range(_FROZEN, _LAYERS))
    config = LoraConfig(r=16, lora_alpha=32, target_modules=list(options.targets), layers_to_transform=layers)
    model: Any = get_peft_model(base, config)
    ids_RT = torch.randint(_VOCABULARY, (_ROWS, _TOKENS)).tolist()
    examples = [EncodedExample(ids, _TOKENS // 2) for ids in ids_RT]
    loss = CompletionLoss(OutputLayer(base), options.logit_chunk)
    # What the first passes import and set up is no memory of the method.
    loss.total([EncodedExample(ids_RT[0][:16], 8)]).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    budget = TokenBudget(options.batch_size, options.micro_batch_tokens)
    folder.mkdir()
    with footprint(folder) as found:
        trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        groups = rate_groups(trained, options.learning_rate, options.b_rate)
        training = Training(options, model, loss, budget, groups)
        training.to_the_end(examples, [], 0, None)
    model.save_pretrained(str(folder))
    return {
        "growth_mib": round((found.peak - found.resident) / 2**20),
        "seconds": round(found.seconds, 1),
        "losses": training.losses,
    }


def difference(first: Path, second: Path) -> dict[str, float]:
    """How far apart two adapters are: in their greatest element, and relative to the first one's norm."""
    from safetensors.torch import load_file

    one, other = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    squares = [(float((one[name] - other[name]).square().sum()), float(one[name].square().sum())) for name in one]
    return {
        "greatest_difference": max(float((one[name] - other[name]).abs().max()) for name in one),
        "relative_difference": (sum(apart for apart, _ in squares) / sum(whole for _, whole in squares)) ** 0.5,
    }


def table(result: dict[str, Any]) -> str:
    """The result as lines to be read."""
    lines = [f"{'':8} {'peak MiB':>10} {'seconds':>9} {'last loss':>11}"]
    for way, figures in result["ways"].items():
        peak, seconds = median(figures["peak_growth_mib"]), median(figures["seconds"])
        lines.append(f"{way:8} {peak:10.0f} {seconds:9.1f} {figures['losses'][-1]:11.6f}")
    lines.append(
        f"peak {result['peak_ratio']:.3f}x, time {result['time_ratio']:.2f}x, loss within "
        f"{result['greatest_loss_difference']:.1e}, adapter within {result['adapter']['greatest_difference']:.1e}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
