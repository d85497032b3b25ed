"""Cross-entropy and greedy exact match over completions, from one teacher-forced forward.

Where the most likely token is the right one at every position of a completion, given the right tokens before it, greedy
decoding produces exactly that completion: so exact match needs no generation. Does not know what adapts the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from learning.contract import Evaluation, Example
from learning.template import PromptTemplate
from learning.tokens import pad_right, shorten

_IGNORED = -100


@dataclass(frozen=True)
class EncodedExample:
    """Prompt and completion tokens; the first `prompt_tokens` carry no loss."""

    ids: list[int]
    prompt_tokens: int


def encode(examples: Sequence[Example], template: PromptTemplate, max_tokens: int) -> list[EncodedExample]:
    """Tokens of the examples whose completion leaves room for a prompt; long prompts lose their middle."""
    encoded = []
    for example in examples:
        completion = template.encode_completion(example.completion)
        prompt = template.encode_prompt(example.prompt)
        room = max_tokens - len(completion)
        if room >= 1 and prompt:
            kept = shorten(prompt, room)
            encoded.append(EncodedExample([*kept, *completion], len(kept)))
    return encoded


def completion_logits(model: nn.Module, batch: Sequence[EncodedExample]) -> tuple[Tensor, Tensor]:
    """Logits float[b, c, vocabulary] and targets int64[b, c] over the c columns where any row has a completion.

    Targets are -100 elsewhere. Rows are padded on the right, where a causal model does not look, so that no attention
    mask is needed; the output layer is computed for those c columns only.
    """
    device = next(model.parameters()).device
    ids_BT = pad_right([example.ids for example in batch], 0)
    starts_B = torch.tensor([example.prompt_tokens for example in batch])
    ends_B = torch.tensor([len(example.ids) for example in batch])
    position_T = torch.arange(ids_BT.shape[1])
    inside_BT = (position_T >= starts_B[:, None]) & (position_T < ends_B[:, None])
    first = int(starts_B.min())
    targets_BC = torch.where(inside_BT, ids_BT, _IGNORED)[:, first:]
    columns_C = torch.arange(first - 1, ids_BT.shape[1] - 1, device=device)
    logits_BCV = model(input_ids=ids_BT.to(device), logits_to_keep=columns_C, use_cache=False).logits
    return logits_BCV, targets_BC.to(device)


def mean_loss(logits_BCV: Tensor, targets_BC: Tensor) -> Tensor:
    """Mean cross-entropy in nats over completion tokens, in float32."""
    return cross_entropy(logits_BCV.flatten(0, 1).float(), targets_BC.flatten(), ignore_index=_IGNORED)


@torch.inference_mode()
def evaluate(model: nn.Module, examples: Sequence[EncodedExample], batch_size: int) -> Evaluation:
    """Loss per completion token and exact match over all examples; zeros for none."""
    if not examples:
        return Evaluation(0.0, 0.0, 0)
    training = model.training
    model.eval()
    loss_sum = torch.zeros((), dtype=torch.float64)
    tokens = exact = 0
    ordered = sorted(examples, key=lambda example: len(example.ids))
    for start in range(0, len(ordered), batch_size):
        logits_BCV, targets_BC = completion_logits(model, ordered[start : start + batch_size])
        counted_BC = targets_BC != _IGNORED
        count = int(counted_BC.sum())
        loss_sum += mean_loss(logits_BCV, targets_BC).double().cpu() * count
        tokens += count
        exact += int(((logits_BCV.argmax(-1) == targets_BC) | ~counted_BC).all(dim=1).sum())
    model.train(training)
    return Evaluation(float(loss_sum) / tokens, exact / len(examples), len(examples))
