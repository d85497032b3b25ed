"""OSFT in both forms against PEFT's OSF: time of a step, peak memory, orthogonality, loss at each one's best rate.

All train the same random Llama, 512 wide, 8 layers, with half of every weight's singular directions kept, by the same
loop with AdamW. Steps are timed in one process, one of each by turns; memory in a process of its own each, less what
the process held before it had a base. With 2 layers, rates are swept on held-out rows; at its best one each then trains
300 steps. With U_h and V_h from the weights as they were: |U_h^T dW| / |dW| and |dW V_h^T| / |dW|, of all weights
together. Run it with `python -m benchmarks.osft`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.footprint import apart, footprint, resident
from benchmarks.hardware import describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from learning.completion_loss import EncodedExample

RESULT = Path(__file__).parent / "results" / "osft.json"
WAYS = ("peft", "core", "factors")
RATES = {"peft": (1e-4, 3e-4, 1e-3), "core": (3e-4, 1e-3, 3e-3), "factors": (1e-4, 3e-4, 1e-3)}
_WIDTH, _INNER, _LAYERS, _SHALLOW, _VOCABULARY, _RATIO = 512, 1408, 8, 2, 512, 0.5
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ROWS, _TOKENS, _SHORT, _COMPLETION, _KEYS = 8, 64, 12, 4, 64


def main() -> None:
    """Run the benchmark, print its table and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep-steps", type=int, default=60)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--timed-steps", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = measure(options.sweep_steps, options.steps, options.timed_steps)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def measure(sweep_steps: int, steps: int, timed_steps: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("torch", "transformers", "peft", "numpy"))
    seconds = apart(timed, timed_steps)
    found: dict[str, Any] = {}
    for way in WAYS:
        memory = apart(trained, way, RATES[way][0], 2, _TOKENS, _LAYERS)["peak_mib"]
        losses = {
            rate: apart(trained, way, rate, sweep_steps, _SHORT, _SHALLOW)["held_out_loss"] for rate in RATES[way]
        }
        best = min(losses, key=lambda rate, losses=losses: losses[rate])  # type: ignore[misc]
        found[way] = {
            "step_seconds": seconds[way],
            "peak_mib": memory,
            "held_out_loss_by_rate": {str(rate): loss for rate, loss in losses.items()},
            "best_rate": best,
            **{
                key: each
                for key, each in apart(trained, way, best, steps, _SHORT, _SHALLOW, True).items()
                if key != "peak_mib"
            },
        }
    ratios = {
        way: {
            "time": round(median(own / peft for own, peft in zip(seconds[way], seconds["peft"], strict=True)), 3),
            "memory": round(found[way]["peak_mib"] / found["peft"]["peak_mib"], 3),
        }
        for way in WAYS[1:]
    }
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "base": {"width": _WIDTH, "inner": _INNER, "layers": _LAYERS, "vocabulary": _VOCABULARY, "kept": _RATIO},
        "timed_batch": {"rows": _ROWS, "tokens": _TOKENS},
        "trained_layers": _SHALLOW,
        "trained_batch": {"rows": _ROWS, "tokens": _SHORT, "completion_tokens": _COMPLETION},
        "sweep_steps": sweep_steps,
        "steps": steps,
        "ways": found,
        "against_peft": ratios,
    }


def timed(steps: int) -> dict[str, Any]:
    """Seconds of each step after the first, one of each way by turns."""
    ways = {way: Way(way, RATES[way][0]) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(steps + 1):
        batch = _rows(number, _TOKENS)
        for name, way in ways.items():
            started = time.perf_counter()
            way.step(batch)
            seconds[name].append(round(time.perf_counter() - started, 4))
    return {way: each[1:] for way, each in seconds.items()}


def trained(way: str, rate: float, steps: int, tokens: int, layers: int, overlaps: bool = False) -> dict[str, Any]:
    """One training in this process: peak memory, loss on rows it has not seen, and what its change overlaps."""
    import torch

    torch.set_num_threads(1)
    # What the first passes import and set up is no memory of the method.
    Way(way, rate, width=32).step(_rows(0, tokens))
    before = resident()
    made = Way(way, rate, layers=layers)
    CDLL("libc.so.6").malloc_trim(0)  # what decompositions held
    with tempfile.TemporaryDirectory(prefix="anabranch-osft-") as folder, footprint(Path(folder)) as found:
        for number in range(steps):
            for group in made.optimiser.param_groups:
                group["lr"] = rate * (1.0 + math.cos(math.pi * number / steps)) / 2.0
            made.step(_rows(number, tokens))
    with torch.no_grad():
        rows = _rows(-1, tokens, 32 * _ROWS)
        loss = float(made.loss.total(rows)) / sum(each.completion_tokens for each in rows)
    return {
        "peak_mib": round((found.peak - before) / 2**20),
        "held_out_loss": round(loss, 4),
        **(made.overlaps(layers) if overlaps else {}),
    }


class Way:
    """A model that trains one way, and its steps."""

    def __init__(self, way: str, rate: float, width: int = _WIDTH, layers: int = _LAYERS) -> None:
        import torch

        from learning.completion_loss import CompletionLoss
        from learning.output_layer import OutputLayer

        self._model = _base(width, layers)
        self.loss = CompletionLoss(OutputLayer(self._model), 1024)
        self._names = [name for name, _ in self._model.named_modules() if name.rsplit(".", 1)[-1] in _TARGETS]
        self._constraint: Any = None
        self._change: Callable[[str, Tensor], Any]
        self._parameters: list[nn.Parameter] = self._with_peft() if way == "peft" else self._with_ours(way)
        self.optimiser = torch.optim.AdamW(self._parameters, lr=rate, weight_decay=0.0, fused=True)
        self._model.train()

    def _with_peft(self) -> list[nn.Parameter]:
        from peft import OSFConfig, get_peft_model

        model: Any = get_peft_model(self._model, OSFConfig(effective_rank=_RATIO, target_modules=list(_TARGETS)))
        self._change = lambda name, _: self._model.get_submodule(name).get_delta_weight("default")
        return [each for each in model.parameters() if each.requires_grad]

    def _with_ours(self, form: str) -> list[nn.Parameter]:
        from learning.confined import confined
        from learning.free_directions import by_weight

        def parts() -> Any:
            for name in self._names:
                weight = self._model.get_submodule(name).weight.data
                yield name, weight, by_weight(weight, int(_RATIO * min(weight.shape)))

        self._confined = confined(self._model, parts(), form)  # held, so that the modules stay where they are
        modules = self._confined.__enter__()
        self._constraint = modules
        self._change = modules.change
        return modules.parameters()

    def step(self, batch: list[EncodedExample]) -> float:
        """One step of the optimiser; nats per completion token before it."""
        from torch.nn.utils import clip_grad_norm_

        loss = self.loss.total(batch) / sum(each.completion_tokens for each in batch)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._constraint is not None:
            self._constraint.before_step()
        clip_grad_norm_(self._parameters, 1.0)
        self.optimiser.step()
        if self._constraint is not None:
            self._constraint.after_step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def overlaps(self, layers: int) -> dict[str, float]:
        """What share of the change, by its norm, lies where nothing may change: of outputs, and of inputs."""
        import torch

        begun = _base(_WIDTH, layers)
        squares = torch.zeros(3, dtype=torch.float64)
        for name in self._names:
            weight = begun.get_submodule(name).weight.data
            kept = int(_RATIO * min(weight.shape))
            left, _, right = torch.linalg.svd(weight.double(), full_matrices=False)
            change = self._change(name, weight).detach().double()
            parts = (left[:, :kept].T @ change, change @ right[:kept].T, change)
            squares += torch.stack([part.square().sum() for part in parts])
        of_outputs, of_inputs, whole = squares.sqrt().tolist()
        return {"outputs_overlap": of_outputs / whole, "inputs_overlap": of_inputs / whole, "change_norm": whole}


def _base(width: int, layers: int) -> Any:
    """The model that all begin with."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": _VOCABULARY, "hidden_size": width, "intermediate_size": width * _INNER // _WIDTH}
    heads = {"num_hidden_layers": layers, "num_attention_heads": 8, "max_position_embeddings": _TOKENS}
    config = AutoConfig.for_model("llama", **sizes, **heads)
    return AutoModelForCausalLM.from_config(config).requires_grad_(False)  # type: ignore[no-untyped-call]


def _rows(seed: int, tokens: int, count: int = _ROWS) -> list[EncodedExample]:
    """Noise, then a key; the completion is the key's successors in a fixed ring."""
    import numpy as np

    from learning.completion_loss import EncodedExample

    ring = np.random.Generator(np.random.PCG64(0)).permutation(_KEYS)
    generator = np.random.Generator(np.random.PCG64(seed + 2))
    noise = generator.integers(_KEYS, _VOCABULARY, (count, tokens - _COMPLETION - 1))
    made = []
    for row in noise:
        ids = [*map(int, row), int(generator.integers(_KEYS))]
        for _ in range(_COMPLETION):
            ids.append(int(ring[ids[-1]]))
        made.append(EncodedExample(ids, tokens - _COMPLETION))
    return made


def table(result: dict[str, Any]) -> str:
    """The result as lines to be read."""
    lines = [f"{'':8} {'s a step':>9} {'peak MiB':>9} {'rate':>7} {'loss':>8} {'outputs':>9} {'inputs':>9}"]
    for way, each in result["ways"].items():
        lines.append(
            f"{way:8} {median(each['step_seconds']):9.3f} {each['peak_mib']:9.0f} {each['best_rate']:7.0e} "
            f"{each['held_out_loss']:8.4f} {each['outputs_overlap']:9.1e} {each['inputs_overlap']:9.1e}"
        )
    for way, each in result["against_peft"].items():
        lines.append(f"{way} against PEFT: time {each['time']:.2f}x, memory {each['memory']:.2f}x")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
