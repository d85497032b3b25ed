"""Greedy answers of a model to encoded prompts, in batches. Knows no task and no metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    terminator: str | None,
    rows: int,
) -> list[str]:
    """Answers as text, up to `terminator` or the end token, in the prompts' order; `rows` in a batch.

    Prompts are padded on the left and the padding is masked, so that a row's answer is the one that it has alone, up to
    rounding.
    """
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    training = model.training
    model.train(False)
    for start in range(0, len(order), rows):
        chosen = order[start : start + rows]
        width = max(len(prompts[place]) for place in chosen)
        ids_BT = torch.full((len(chosen), width), padding)
        mask_BT = torch.zeros_like(ids_BT)
        for row, place in enumerate(chosen):
            ids_BT[row, width - len(prompts[place]) :] = torch.tensor(prompts[place])
            mask_BT[row, width - len(prompts[place]) :] = 1
        made_BT = model.generate(  # type: ignore[operator]
            input_ids=ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=padding,
            eos_token_id=tokenizer.eos_token_id,
            **({"stop_strings": [terminator], "tokenizer": tokenizer} if terminator else {}),
        )
        for place, new_T in zip(chosen, made_BT[:, width:].tolist(), strict=True):
            answers[place] = _text(tokenizer, new_T, terminator)
    model.train(training)
    return answers


def _text(tokenizer: Any, ids: list[int], terminator: str | None) -> str:
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return text.split(terminator)[0] if terminator else text
