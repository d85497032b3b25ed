"""The stream of pre-training batches: transformations drawn at random, rendered as chat turns, grouped by length.

Every batch is produced on the fly from one seed. Prompts count little in the loss (their text is mostly random, but
its letters are worth knowing), answers and their <eos> fully. This module does not know the model or the optimiser.
"""

import random
from collections.abc import Callable, Iterator

import torch

from examples.pretraining.editing import EDITING, Exchange
from examples.pretraining.formats import FORMATS
from examples.pretraining.lookups import LOOKUPS
from examples.pretraining.material import Material
from examples.pretraining.tokenizer import PAD, encode_turn

TRANSFORMATIONS: tuple[Callable[[random.Random, Material], Exchange], ...] = (*EDITING, *LOOKUPS, *FORMATS)
LONGEST = 192
PROMPT_WEIGHT = 0.1


def exchanges(rng: random.Random, material: Material) -> Iterator[Exchange]:
    """An endless stream of ``(prompt, completion)``; empty answers are left out."""
    while True:
        prompt, completion = rng.choice(TRANSFORMATIONS)(rng, material)
        if completion:
            yield prompt, completion


def collate(turns: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids ``[rows, length]`` and the loss weight of each as a target, same shape."""
    length = max(len(ids) for ids, _ in turns)
    ids_BT = torch.full((len(turns), length), PAD, dtype=torch.long)
    weights_BT = torch.zeros(len(turns), length)
    for row, (ids, prompt_length) in enumerate(turns):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weights_BT[row, :prompt_length] = PROMPT_WEIGHT
        weights_BT[row, prompt_length : len(ids)] = 1.0
    return ids_BT, weights_BT


def batches(rng: random.Random, material: Material, tokens: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of about ``tokens`` padded tokens, each of turns of similar length."""
    stream = exchanges(rng, material)
    while True:
        pool: list[tuple[list[int], int]] = []
        while len(pool) < 4096:
            turn = encode_turn(*next(stream))
            if len(turn[0]) <= LONGEST:
                pool.append(turn)
        pool.sort(key=lambda turn: len(turn[0]))
        groups: list[list[tuple[list[int], int]]] = [[]]
        for turn in pool:
            if (len(groups[-1]) + 1) * len(turn[0]) > tokens:
                groups.append([])
            groups[-1].append(turn)
        rng.shuffle(groups)
        for group in groups:
            yield collate(group)
