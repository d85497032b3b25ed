"""Pooling against numpy on each row's real positions, in the precision that is promised."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.feature_options import Pooling
from learning.pooling import pool, pool_packed

ALL: tuple[Pooling, ...] = ("mean", "max", "std", "last")


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), padding=st.integers(0, 3), seed=st.integers(0, 2**32)
)
def test_only_real_positions_count(lengths: list[int], padding: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(lengths), max(lengths) + padding, 6, dtype=torch.float64, generator=generator) * 10 - 5
    pooled = pool(states, torch.tensor(lengths), ALL).numpy()
    for row, length, one in zip(pooled, lengths, states.numpy(), strict=True):
        real = one[:length]
        assert np.allclose(row, np.concatenate([real.mean(0), real.max(0), real.std(0), real[-1]]), atol=1e-13)


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 2**32))
def test_texts_laid_end_to_end_are_pooled_like_rectangles(lengths: list[int], seed: int) -> None:
    drawn = np.random.default_rng(seed)
    states = [drawn.normal(-5.0, 10.0, (sum(lengths), 6)) for _ in range(2)]
    found = pool_packed(states, lengths, ALL)
    ends = np.cumsum(lengths)
    for row, length, end in zip(found, lengths, ends, strict=True):
        both = [torch.from_numpy(each[None, end - length : end]) for each in states]
        expected = torch.cat([pool(each, torch.tensor([length]), ALL)[0] for each in both])
        assert np.allclose(row, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("given_type", "pooled_type"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_narrow_states_are_pooled_in_float32(given_type: torch.dtype, pooled_type: torch.dtype) -> None:
    states = (torch.randn(2, 300, 4, generator=torch.Generator().manual_seed(0)) + 50).to(given_type)
    pooled = pool(states, torch.tensor([300, 7]), ALL)
    assert pooled.dtype == pooled_type
    exact = states[0].double()
    expected = torch.cat([exact.mean(0), exact.amax(0), exact.std(0, correction=0), exact[-1]])
    assert torch.allclose(pooled[0].double(), expected, rtol=1e-5)


def test_states_are_left_as_they_are() -> None:
    states = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    before = states.clone()
    pool(states, torch.tensor([3, 1]), ALL)
    assert torch.equal(states, before)
