"""The model card that is written beside the weights. This module does not train."""

from typing import Any

from transformers import LlamaForCausalLM

from examples.pretraining.material import LOCALES
from examples.pretraining.mixture import LONGEST, TRANSFORMATIONS

CARD = """---
license: apache-2.0
tags: [text-generation, byte-level, tiny]
---
# A small base for the demo

A byte-level causal language model of {parameters:.2f} million parameters in Llama layout, pre-trained from nothing by
`examples/pretrain.py`. It knows nothing of the world: it is the frozen base on which the demo trains one LoRA adapter a
domain.

| | |
|---|---|
| layout | {layers} layers, {width} wide, {heads} heads of {head_dim}, MLP {mlp}, tied embeddings, float32 |
| context | {context} tokens; pre-training used turns of at most {longest} |
| vocabulary | 256 bytes, no merges, and `<pad> <bos> <eos> <user> <assistant> <system>` |
| turn | `<bos><user>PROMPT<assistant>ANSWER<eos>`; the template writes `<bos>`: tokenise without special tokens |
| stage 1 | {tasks} made-up text transformations, each asked for by an instruction |
| stage 2 | the same mixed with 80 invented domains: desks, calendars and numerals that exist nowhere |
| raw text | sentences, words and names from Faker in {locales} locales, made-up words, codes; drawn on the fly |

## Recipe
{recipe}

The pre-training data holds none of the demo's domains: no months, no numbers in words, no tickets, logs, queries or
shell commands. Before adaptation the model answers practically none of their prompts.

## Pre-training skills
Share of fresh exchanges whose whole answer with `<eos>` is the model's first choice:

| transformation | exact match |
|---|---|
{skills}

## Limits
Made for short prompts in the turn format above. The text of a special token inside a prompt is read as that token.
"""


def model_card(model: LlamaForCausalLM, runs: list[dict[str, Any]], skills: dict[str, float]) -> str:
    """The card's text in Markdown; ``runs`` holds the recipe and outcome of each stage."""
    return CARD.format(
        parameters=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        heads=model.config.num_attention_heads,
        head_dim=model.config.head_dim,
        mlp=model.config.intermediate_size,
        context=model.config.max_position_embeddings,
        longest=LONGEST,
        tasks=len(TRANSFORMATIONS),
        locales=len(LOCALES),
        recipe="\n".join(_run(run) for run in runs),
        skills="\n".join(f"| {name.replace('_', ' ')} | {share:.2f} |" for name, share in skills.items()),
    )


def _run(run: dict[str, Any]) -> str:
    length = f"--minutes {run['minutes']:g}" if run["by_clock"] else f"--steps {run['steps']}"
    start = " --start STAGE_1" if run["stage"] == 2 else ""
    out = "DIR" if run["stage"] == 2 else "STAGE_1"
    return (
        f"- `python -m examples.pretrain --stage {run['stage']}{start} --out {out} {length} --seed {run['seed']}`: "
        f"{run['steps']} steps, {run['tokens'] / 1e6:.1f} million tokens, {run['minutes']:.0f} minutes "
        f"on {run['threads']} busy CPU cores; final loss {run['loss']:.3f} nats"
    )
