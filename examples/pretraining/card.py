"""The model card that is written beside the weights. This module does not train."""

from typing import TYPE_CHECKING

from transformers import LlamaConfig

if TYPE_CHECKING:
    from examples.pretrain import Recipe

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
| data | {tasks} kinds of made-up text transformations, drawn on the fly; sentences of Faker in {locales} locales |
| recipe | `{command}` |
| run | {steps} steps, {tokens:.1f} M tokens, {minutes:.0f} minutes on {threads} CPU cores; final loss {loss:.3f} nats |

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


def model_card(
    config: LlamaConfig,
    parameters: int,
    recipe: "Recipe",
    outcome: dict[str, float],
    skills: dict[str, float],
    threads: int,
) -> str:
    """The card's text in Markdown."""
    from examples.pretraining.material import LOCALES
    from examples.pretraining.mixture import LONGEST

    length = f"--minutes {recipe.minutes:g}" if recipe.minutes else f"--steps {recipe.steps}"
    return CARD.format(
        parameters=parameters / 1e6,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        mlp=config.intermediate_size,
        context=config.max_position_embeddings,
        longest=LONGEST,
        tasks=len(skills),
        locales=len(LOCALES),
        command=f"python -m examples.pretrain --out DIR {length} --seed {recipe.seed}",
        steps=outcome["steps"],
        tokens=outcome["tokens"] / 1e6,
        minutes=outcome["minutes"],
        loss=outcome["loss"],
        threads=threads,
        skills="\n".join(f"| {name.replace('_', ' ')} | {share:.2f} |" for name, share in skills.items()),
    )
