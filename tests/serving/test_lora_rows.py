"""The CPU products against their definition, and vLLM's own against the same, which shows the fault they mend."""

import pytest
import torch

from serving.lora_rows import GroupedRows, add_shares, groups_of

SLOTS, RANK, WIDTH, OUT, TOKENS = 3, 4, 6, 7, 5
INDICES = torch.tensor([0, -1, 2, -1, 0])
ROUNDED = {"rtol": 2e-2, "atol": 2e-2}


@pytest.fixture
def downs() -> torch.Tensor:
    """Stacked weights [slots, 1, rank, in]; the last slot is the one that a -1 would wrap to."""
    return torch.randn(SLOTS, 1, RANK, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ups() -> torch.Tensor:
    """Stacked weights [slots, 1, out, rank]."""
    return torch.randn(SLOTS, 1, OUT, RANK, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def shares(inputs: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """The definition: row i is B[slot_i] A[slot_i] x_i, or nothing."""
    rows = [
        ups[slot, 0] @ (downs[slot, 0] @ x) if slot >= 0 else torch.zeros(ups.shape[2])
        for slot, x in zip(slots.tolist(), inputs, strict=True)
    ]
    return torch.stack(rows)


def test_groups_name_each_slot_with_its_rows() -> None:
    assert {slot: rows.tolist() for slot, rows in groups_of(INDICES) if rows is not None} == {0: [0, 4], 2: [2]}
    assert groups_of(torch.full((3,), -1)) == [] == groups_of(torch.empty(0, dtype=torch.long))


def test_a_slot_that_has_all_rows_is_not_taken_apart() -> None:
    assert groups_of(torch.tensor([2, 2, 2])) == [(2, None)]
    ((slot, rows),) = groups_of(torch.tensor([2, -1, 2]))
    assert slot == 2 and rows is not None and rows.tolist() == [0, 2]


@pytest.mark.parametrize("slots", [INDICES, torch.full((TOKENS,), 1), torch.full((TOKENS,), -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_gets_its_own_slots_share(
    inputs: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor, dtype: torch.dtype, slots: torch.Tensor
) -> None:
    before = torch.randn(TOKENS, OUT).to(dtype)
    output = before.clone()
    x, a, b = (each.to(dtype) for each in (inputs, downs, ups))
    add_shares(output, x, (a,), (b,), groups_of(slots), 0.5)
    expected = before.float() + 0.5 * shares(x.float(), a.float(), b.float(), slots)
    torch.testing.assert_close(output.float(), expected, **({} if dtype == torch.float32 else ROUNDED))
    assert torch.equal(output[slots < 0], before[slots < 0])


def test_weights_of_another_type_than_the_models_are_computed_in(
    inputs: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor
) -> None:
    output = torch.zeros(TOKENS, OUT, dtype=torch.bfloat16)
    add_shares(output, inputs.to(torch.bfloat16), (downs,), (ups,), groups_of(INDICES))
    torch.testing.assert_close(output.float(), shares(inputs, downs, ups, INDICES), **ROUNDED)


@pytest.mark.parametrize("which", [0, 1])
def test_an_infinity_in_a_slot_reaches_its_own_rows_only(
    inputs: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor, which: int
) -> None:
    (downs, ups)[which][2] = float("inf")
    output = torch.zeros(TOKENS, OUT)
    add_shares(output, inputs, (downs,), (ups,), groups_of(INDICES))
    assert torch.isfinite(output[INDICES != 2]).all() and not torch.isfinite(output[INDICES == 2]).any()


@pytest.mark.parametrize("slots", [INDICES, torch.full((TOKENS,), 1)])
def test_slices_of_one_layer_keep_to_their_columns(
    inputs: torch.Tensor, downs: torch.Tensor, slots: torch.Tensor
) -> None:
    ups = tuple(torch.randn(SLOTS, 1, width, RANK) for width in (2, 3))
    output = torch.ones(TOKENS, 5)
    add_shares(output, inputs, (downs, 2 * downs), ups, groups_of(slots), 0.5)
    expected = torch.ones(TOKENS, 5)
    expected[:, :2] += 0.5 * shares(inputs, downs, ups[0], slots)
    expected[:, 2:] += shares(inputs, downs, ups[1], slots)
    torch.testing.assert_close(output, expected)


def test_adapters_in_shards_are_refused_rather_than_wrong() -> None:
    for method in (GroupedRows().add_shrink, GroupedRows().add_expand):
        with pytest.raises(NotImplementedError, match="fully_sharded_loras"):
            method((torch.zeros(1, 1),), torch.zeros(1, 1), (torch.zeros(1, 1, 1, 1),), 1.0)


@pytest.mark.vllm
def test_vllms_own_operation_gives_base_rows_the_last_slots_adapter(inputs: torch.Tensor, downs: torch.Tensor) -> None:
    """If this fails, vLLM has mended it, and the grouping is for speed only."""
    from vllm.lora.ops.torch_ops.lora_ops import bgmv_shrink as unmended

    output = torch.zeros(TOKENS, RANK)
    unmended(inputs, downs, output, INDICES)
    torch.testing.assert_close(output[1], downs[-1, 0] @ inputs[1])


@pytest.mark.vllm
def test_vllm_takes_the_grouped_wrapper_and_its_linear_layers_go_through_it(
    monkeypatch: pytest.MonkeyPatch, inputs: torch.Tensor, downs: torch.Tensor, ups: torch.Tensor
) -> None:
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.punica_wrapper import punica_cpu
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

    from serving import lora_rows

    monkeypatch.setattr(punica_cpu, "PunicaWrapperCPU", punica_cpu.PunicaWrapperCPU)
    lora_rows.group_rows()
    expected = 1 + shares(inputs, downs, ups, INDICES)
    # The engine's ids of what is in the slots; 0 means no adapter.
    ids = {0: 11, 1: 12, 2: 13, -1: 0}
    tokens = tuple(ids[slot] for slot in INDICES.tolist())
    for is_prefill in (True, False):
        wrapper = get_punica_wrapper(16, max_batches=8, device="cpu")
        wrapper.update_metadata(LoRAMapping(tokens, tokens, is_prefill), [11, 12, 13], SLOTS + 1, 32)
        output = torch.ones(TOKENS, OUT)
        wrapper.add_lora_linear(output, inputs, (downs,), (ups,), 1.0, (OUT,))
        torch.testing.assert_close(output, expected)
