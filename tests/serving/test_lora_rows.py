"""The CPU products against their definition, and vLLM's own against the same, which shows the fault they mend."""

import pytest
import torch

from serving.lora_rows import GroupedRows, add_products, groups_of

SLOTS, RANK, WIDTH, TOKENS = 3, 4, 6, 5
INDICES = torch.tensor([0, -1, 2, -1, 0])


@pytest.fixture
def weights() -> torch.Tensor:
    """Stacked weights [slots, 1, out, in]; the last slot is the one that a -1 would wrap to."""
    return torch.randn(SLOTS, 1, RANK, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def product(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The definition: row i is W[idx_i] x_i, or nothing."""
    rows = [weights[slot, 0] @ x if slot >= 0 else torch.zeros(RANK) for slot, x in zip(INDICES, inputs, strict=True)]
    return torch.stack(rows)


def test_groups_name_each_slot_with_its_rows() -> None:
    assert {slot: rows.tolist() for slot, rows in groups_of(INDICES)} == {0: [0, 4], 2: [2]}
    assert groups_of(torch.full((3,), -1)) == [] == groups_of(torch.empty(0, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_slots_product(inputs: torch.Tensor, weights: torch.Tensor, dtype: torch.dtype) -> None:
    before = torch.randn(TOKENS, RANK + 2)
    output = before.clone()
    add_products(output, inputs.to(dtype), weights.to(dtype), groups_of(INDICES), 0.5)
    expected = before.clone()
    expected[:, :RANK] += 0.5 * product(inputs.to(dtype).float(), weights.to(dtype).float())
    torch.testing.assert_close(output, expected)
    assert torch.equal(output[INDICES < 0], before[INDICES < 0])


def test_an_infinity_in_a_slot_reaches_its_own_rows_only(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    weights[2] = float("inf")
    output = torch.zeros(TOKENS, RANK)
    add_products(output, inputs, weights, groups_of(INDICES))
    assert torch.isfinite(output[INDICES != 2]).all() and not torch.isfinite(output[INDICES == 2]).any()


class Mapped(GroupedRows):
    """The operations with a step's mapping already taken in."""

    def __init__(self) -> None:
        self._groups = groups_of(INDICES)


def test_shrink_and_expand_keep_to_their_slices(inputs: torch.Tensor, weights: torch.Tensor) -> None:
    low = (torch.zeros(TOKENS, RANK), torch.zeros(TOKENS, RANK))
    Mapped().add_shrink(low, inputs, (weights, 2 * weights), 0.5)
    torch.testing.assert_close(low[0], 0.5 * product(inputs, weights))
    torch.testing.assert_close(low[1], product(inputs, weights))
    ups = tuple(torch.randn(SLOTS, 1, width, RANK) for width in (2, 3))
    output = torch.ones(TOKENS, 7)
    Mapped().add_expand(output, low, ups, (2, 3), offset_start=1)
    expected = torch.ones(TOKENS, 7)
    for row, slot in enumerate(INDICES.tolist()):
        if slot >= 0:
            expected[row, 1:3] += ups[0][slot, 0] @ low[0][row]
            expected[row, 3:6] += ups[1][slot, 0] @ low[1][row]
    torch.testing.assert_close(output, expected)


@pytest.mark.vllm
def test_vllms_own_operation_gives_base_rows_the_last_slots_adapter(
    inputs: torch.Tensor, weights: torch.Tensor
) -> None:
    """If this fails, vLLM has mended it, and the grouping is for speed only."""
    from vllm.lora.ops.torch_ops.lora_ops import bgmv_shrink as unmended

    output = torch.zeros(TOKENS, RANK)
    unmended(inputs, weights, output, INDICES)
    torch.testing.assert_close(output[1], weights[-1, 0] @ inputs[1])


@pytest.mark.vllm
def test_vllm_takes_the_grouped_wrapper_and_its_linear_layers_go_through_it(
    monkeypatch: pytest.MonkeyPatch, inputs: torch.Tensor, weights: torch.Tensor
) -> None:
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper import punica_cpu
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

    from serving import lora_rows

    monkeypatch.setattr(punica_cpu, "PunicaWrapperCPU", punica_cpu.PunicaWrapperCPU)
    lora_rows.group_rows()
    ups = torch.randn(SLOTS, 1, 7, RANK)
    expected = torch.ones(TOKENS, 7)
    for row, slot in enumerate(INDICES.tolist()):
        if slot >= 0:
            expected[row] += ups[slot, 0] @ weights[slot, 0] @ inputs[row]
    # The engine's ids of what is in the slots; 0 means no adapter.
    ids = {0: 11, 1: 12, 2: 13, -1: 0}
    tokens = tuple(ids[slot] for slot in INDICES.tolist())
    for is_prefill in (True, False):
        wrapper = get_punica_wrapper(16, max_batches=8, device="cpu")
        wrapper.update_metadata(LoRAMapping(tokens, tokens, is_prefill), [11, 12, 13], SLOTS + 1, 32)
        output = torch.ones(TOKENS, 7)
        wrapper.add_lora_linear(output, inputs, (weights,), (ups,), 1.0, (7,))
        torch.testing.assert_close(output, expected)
