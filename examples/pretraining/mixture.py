"""The stream of pre-training batches: transformations drawn at random, rendered as chat turns, grouped by length.

There are two stages: transformations that an instruction asks for, then these mixed with invented domains, whose answer
follows from the words of the prompt alone.

Every batch is produced on the fly from one seed. Prompts count little in the loss (their text is mostly random, but
its letters are worth knowing), answers and their <eos> fully. This module does not know the model or the optimiser.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from examples.pretraining.editing import EDITING, Exchange
from examples.pretraining.formats import FORMATS
from examples.pretraining.invented import InventedWorld
from examples.pretraining.lookups import LOOKUPS
from examples.pretraining.material import Material
from examples.pretraining.tokenizer import PAD, encode_turn

Transformation = Callable[[random.Random, Material], Exchange]
TRANSFORMATIONS: tuple[Transformation, ...] = (*EDITING, *LOOKUPS, *FORMATS)
LONGEST = 192
PROMPT_WEIGHT = 0.1


@dataclass(frozen=True)
class Mixture:
    """Transformations with the weights they are drawn by; equal ones without weights."""

    transformations: tuple[Transformation, ...]
    weights: tuple[float, ...] | None = None

    def draw(self, rng: random.Random, material: Material) -> Exchange:
        """One exchange."""
        if self.weights is None:
            return rng.choice(self.transformations)(rng, material)
        return rng.choices(self.transformations, self.weights)[0](rng, material)


def stage(number: int, seed: int, material: Material) -> Mixture:
    """The mixture of stage 1 or 2."""
    if number == 1:
        return Mixture(TRANSFORMATIONS)
    world = InventedWorld(seed, material)
    shares = (*(0.36 / len(TRANSFORMATIONS) for _ in TRANSFORMATIONS), 0.42, 0.1, 0.12)
    return Mixture((*TRANSFORMATIONS, world.desk, world.date, world.amount), shares)


def exchanges(rng: random.Random, material: Material, mixture: Mixture) -> Iterator[Exchange]:
    """An endless stream of ``(prompt, completion)``; empty answers are left out."""
    while True:
        prompt, completion = mixture.draw(rng, material)
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


def batches(
    rng: random.Random, material: Material, mixture: Mixture, tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches of about ``tokens`` padded tokens, each of turns of similar length."""
    stream = exchanges(rng, material, mixture)
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
