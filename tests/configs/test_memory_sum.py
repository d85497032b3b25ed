"""What can't fit on the GPUs is refused in one line; what fits is told in figures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.loader import load, presets
from configs.memory import GIB
from configs.memory_sum import check_memory, packed, shape_of
from learning.model_shape import PUBLISHED

SHAPE = PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]


def refusal(name: str, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_memory(load(name, list(sets)))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", presets())
def test_every_preset_fits_what_it_is_for(name: str) -> None:
    preset = load(name)
    lines = check_memory(preset)
    if preset.serving.num_gpus:
        assert preset.ray.gpu_memory_gib == 79.0
        assert "7,615,616,512 weights" in lines[0]
    else:
        assert lines == []


def test_one_gpu_is_no_preset_for_48_gb() -> None:
    line = refusal("one_gpu", "ray.gpu_memory_gib=47.5")
    assert line.startswith("one-gpu: GPU 1: expected at most ray.gpu_memory_gib (47.5 GiB)")
    assert "replica's key-value cache 16.0, replica's base weights 14.2, learner's base weights 14.2" in line


def test_a_smaller_base_fits_48_gb() -> None:
    smaller = load("one_gpu", ["ray.gpu_memory_gib=47.5", "base.model=Qwen/Qwen2.5-1.5B-Instruct"])
    assert "1,543,714,304" in check_memory(smaller)[0]


def test_a_learner_that_takes_its_batch_at_once_is_refused() -> None:
    line = refusal("one_gpu", "learner.micro_batch_tokens=null", "learner.gradient_checkpointing=false")
    assert "learner's activations" in line


def test_an_engine_without_room_for_one_request_is_refused() -> None:
    line = refusal("cluster", "serving.gpu_memory_utilization=0.2")
    assert "one request of base.max_model_len, got 0.0" in line


def test_vllms_own_share_on_a_shared_gpu_is_refused() -> None:
    assert "GPU 1" in refusal("one_gpu", "serving.kv_cache_bytes=null", "serving.gpu_memory_utilization=null")


def test_the_cache_is_told_in_tokens() -> None:
    # 2 sides x 28 layers x 512 wide x 2 bytes: 57,344 bytes a token.
    tokens = (16 << 30) // 57_344
    assert check_memory(load("one_gpu"))[-1].startswith(
        f"cache of each engine: {tokens:,} tokens, {tokens // 4096} whole"
    )


def test_what_can_not_be_summed_is_said() -> None:
    assert "nothing here tells the shape" in check_memory(load("one_gpu", ["base.model=nobody/nothing"]))[0]
    assert "gpu_memory_gib is not set" in check_memory(load("one_gpu", ["ray.gpu_memory_gib=null"]))[0]


def test_a_folder_tells_its_shape(tmp_path: Path) -> None:
    config = {
        "hidden_size": 8,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 9,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(load("one_gpu", [f"base.model={tmp_path}"]))
    assert shape is not None and (shape.layers, shape.vocabulary) == (5, 9)
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_experts": 4}))
    assert "got one of experts" in refusal("one_gpu", f"base.model={tmp_path}")


workers = st.integers(1, 5)
shares = st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0])


@settings(deadline=None)
@given(ingest=st.tuples(workers, shares), learner=st.tuples(workers, shares), serving=st.tuples(workers, shares))
def test_every_worker_is_placed_and_no_gpu_holds_more_than_one(
    ingest: tuple[int, float], learner: tuple[int, float], serving: tuple[int, float]
) -> None:
    wanted = {"ingest": ingest, "learner": learner, "serving": serving}
    sets = [f"{name}.num_gpus={share}" for name, (_, share) in wanted.items()]
    sets += [f"{'serving.replicas' if name == 'serving' else f'{name}.workers'}={n}" for name, (n, _) in wanted.items()]
    gpus = packed(load("one_gpu", sets), SHAPE, 80 * GIB)
    placed = Counter(demand.who for gpu in gpus for demand in gpu.demands)
    assert placed == {
        who: count * max(1, int(share))
        for who, (count, share) in zip(("ingest", "learner", "replica"), wanted.values(), strict=True)
    }
    for gpu in gpus:
        assert len(gpu.demands) == 1 or sum(demand.share for demand in gpu.demands) <= 1 + 1e-6
