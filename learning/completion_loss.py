"""Cross-entropy and greedy exact match over completions, from one teacher-forced forward.

    loss = - sum_i sum_t log p(y_it | x_i, y_i<t) / sum_i |y_i|

Where the most likely token is the right one at every position of a completion, given the right tokens before it, greedy
decoding produces exactly that completion: so exact match needs no generation. Logits exist for completion tokens only,
`chunk` of them at a time; the backward pass makes them again. Does not know what adapts the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from learning.contract import Example
from learning.output_layer import OutputLayer
from learning.template import PromptTemplate
from learning.tokens import pad_right, shorten


@dataclass(frozen=True)
class EncodedExample:
    """Prompt and completion tokens; the first `prompt_tokens` carry no loss."""

    ids: list[int]
    prompt_tokens: int
    is_cut: bool = False
    """Whether the prompt lost its middle."""

    @property
    def completion_tokens(self) -> int:
        """Those that carry loss, the end included."""
        return len(self.ids) - self.prompt_tokens


def encode(examples: Sequence[Example], template: PromptTemplate, max_tokens: int) -> list[EncodedExample]:
    """Tokens of the examples whose completion leaves room for a prompt; prompts that are too long lose their middle.

    All prompts are cut to the same length, which leaves room for the longest completion among the examples. Were each
    cut to what its own leaves, the place at which its answer begins would tell how long the answer is: a model learns
    that before it learns anything of the text, and is asked without it afterwards. At most half of `max_tokens` is kept
    free so; a prompt before a longer completion makes room for it by itself.
    """
    encoded = [
        (prompt, completion)
        for example in examples
        if (prompt := template.encode_prompt(example.prompt))
        and len(completion := template.encode_completion(example.completion)) < max_tokens
    ]
    kept_free = min(max((len(completion) for _, completion in encoded), default=0), max_tokens // 2)
    found = []
    for prompt, completion in encoded:
        shortened = shorten(prompt, max_tokens - max(len(completion), kept_free))
        found.append(EncodedExample([*shortened, *completion], len(shortened), len(shortened) < len(prompt)))
    return found


class RowFigures(NamedTuple):
    """Of one example: what a model makes of its completion, teacher-forced."""

    loss: float
    """Sum of its cross-entropies in nats."""
    exact: bool
    """Whether greedy decoding gives the completion."""
    likeliest: tuple[int, ...]
    """The token that is likeliest at each of its positions, given the right ones before."""


class CompletionLoss:
    """The loss of completions under a model, `chunk` completion tokens' logits at a time."""

    def __init__(self, output: OutputLayer, chunk: int) -> None:
        self._output = output
        self._chunk = chunk

    def total(self, batch: Sequence[EncodedExample]) -> Tensor:
        """float32[]: the sum of the cross-entropies in nats of all completion tokens, to be differentiated."""
        states_NH, targets_N = self._states(batch)
        pieces = list(zip(torch.split(states_NH, self._chunk), torch.split(targets_N, self._chunk), strict=True))
        if len(pieces) == 1:  # no more logits than may exist: they need not be made again
            return self._chunk_loss(states_NH, targets_N).sum()
        sums = [checkpoint(self._chunk_loss, *piece, use_reentrant=False).sum() for piece in pieces]
        return torch.stack(sums).sum()

    @torch.inference_mode()
    def rows(self, batch: Sequence[EncodedExample]) -> list[RowFigures]:
        """Of each example."""
        states_NH, targets_N = self._states(batch)
        losses, likeliest = [], []
        pieces = zip(torch.split(states_NH, self._chunk), torch.split(targets_N, self._chunk), strict=True)
        for states_CH, targets_C in pieces:
            logits_CV = self._output.logits(states_CH)
            losses.append(cross_entropy(logits_CV, targets_C, reduction="none"))
            likeliest.append(logits_CV.argmax(-1))
        counts = [example.completion_tokens for example in batch]
        columns = (torch.split(torch.cat(each).cpu(), counts) for each in (losses, likeliest, [targets_N]))
        return [
            RowFigures(float(losses_T.double().sum()), bool((found_T == right_T).all()), tuple(found_T.tolist()))
            for losses_T, found_T, right_T in zip(*columns, strict=True)
        ]

    def _chunk_loss(self, states_CH: Tensor, targets_C: Tensor) -> Tensor:
        return cross_entropy(self._output.logits(states_CH), targets_C, reduction="none")

    def _states(self, batch: Sequence[EncodedExample]) -> tuple[Tensor, Tensor]:
        """Hidden states before each completion token, and these tokens int64[n], row after row.

        Rows are padded on the right, where a causal model does not look, so that no attention mask is needed.
        """
        device = self._output.device
        counts_B = torch.tensor([example.completion_tokens for example in batch])
        rows_N = torch.repeat_interleave(torch.arange(len(batch)), counts_B)
        columns_N = torch.cat([torch.arange(example.prompt_tokens, len(example.ids)) for example in batch])
        ids_BT = pad_right([example.ids for example in batch], 0)
        states_NH = self._output.states(ids_BT.to(device), rows_N.to(device), (columns_N - 1).to(device))
        return states_NH, ids_BT[rows_N, columns_N].to(device)
