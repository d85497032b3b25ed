"""The CPU operations against their definition, and vLLM's own against the same, which shows the fault they mend."""

import pytest
import torch

from serving.lora_rows import bgmv_expand, bgmv_expand_slice, bgmv_shrink

SLOTS, RANK, WIDTH, TOKENS = 3, 4, 6, 5
INDICES = torch.tensor([0, -1, 2, -1, 1])


@pytest.fixture
def weights() -> torch.Tensor:
    """Stacked weights [slots, 1, out, in] with an infinity in the slot that a -1 would wrap to."""
    weights = torch.randn(SLOTS, 1, RANK, WIDTH, generator=torch.Generator().manual_seed(0))
    weights[-1, 0, 0, 0] = 3.0
    return weights


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def product(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The definition: row i is W[idx_i] x_i, or nothing."""
    rows = [weights[slot, 0] @ x if slot >= 0 else torch.zeros(RANK) for slot, x in zip(INDICES, inputs, strict=True)]
    return torch.stack(rows)


def test_shrink(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    output = torch.full((TOKENS, RANK), 9.0)
    bgmv_shrink(inputs, weights, output, INDICES, 0.5)
    torch.testing.assert_close(output, 0.5 * product(inputs, weights))


@pytest.mark.parametrize("add_inputs", [True, False])
def test_expand_leaves_base_rows_as_they_are(inputs: torch.Tensor, weights: torch.Tensor, add_inputs: bool) -> None:
    before = torch.randn(TOKENS, RANK + 2)
    output = before.clone()
    bgmv_expand(inputs, weights, output, INDICES, add_inputs)
    expected = before.clone()
    for row in (INDICES >= 0).nonzero().flatten().tolist():
        share = product(inputs, weights)[row]
        expected[row, :RANK] = before[row, :RANK] + share if add_inputs else share
    torch.testing.assert_close(output, expected)


def test_expand_slice(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    before = torch.randn(TOKENS, 10)
    output = before.clone()
    bgmv_expand_slice(inputs, weights, output, INDICES, 3, RANK, True)
    expected = before.clone()
    expected[:, 3 : 3 + RANK] += product(inputs, weights)
    torch.testing.assert_close(output, expected)


def test_an_infinity_in_the_last_slot_does_not_reach_base_rows(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    weights[:] = float("inf")
    output = torch.zeros(TOKENS, RANK)
    bgmv_shrink(inputs, weights, output, INDICES)
    assert torch.equal(output[INDICES < 0], torch.zeros(2, RANK))


def test_a_batch_of_base_rows_only(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    output = torch.ones(TOKENS, RANK)
    bgmv_expand(inputs, weights, output, torch.full((TOKENS,), -1))
    assert torch.equal(output, torch.ones(TOKENS, RANK))


@pytest.mark.vllm
def test_vllms_own_operation_gives_base_rows_the_last_slots_adapter(
    inputs: torch.Tensor, weights: torch.Tensor
) -> None:
    """If this fails, vLLM has mended it, and serving/lora_rows.py may go."""
    from vllm.lora.ops.torch_ops.lora_ops import bgmv_shrink as unmended

    output = torch.zeros(TOKENS, RANK)
    unmended(inputs, weights, output, INDICES)
    torch.testing.assert_close(output[1], weights[-1, 0] @ inputs[1])


@pytest.mark.vllm
def test_vllm_binds_the_operations_where_they_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    from serving import lora_rows

    for module in (lora_ops, torch_ops, punica_cpu):
        for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
            monkeypatch.setattr(module, name, getattr(module, name))
    lora_rows.replace_cpu_operations()
    indices = torch.tensor([0, -1])
    output = torch.ones(4, RANK)
    # The prefill operation, which vLLM builds on the others: two sequences of two tokens.
    weights, lengths = torch.ones(SLOTS, 1, RANK, WIDTH), torch.tensor([2, 2])
    punica_cpu.sgmv_shrink(torch.ones(4, WIDTH), weights, output, torch.tensor([0, 2]), lengths, indices, 2, 2, 4, 1.0)
    assert torch.equal(output, torch.tensor([[WIDTH] * RANK] * 2 + [[0] * RANK] * 2, dtype=torch.float32))
