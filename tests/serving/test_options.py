"""Engine options: bounded, closed, the same knobs as the settings' section, and light to import."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from configs.settings import Base, Serving
from serving.options import EngineKnobs, EngineOptions

BASE = {"model": "m", "dtype": "float32", "max_model_len": 64}


@pytest.mark.parametrize(
    "fault",
    [
        {"max_loras": 0},
        {"max_loras": 17},
        {"max_lora_rank": 513},
        {"max_lora_rank": 0},
        {"max_num_seqs": 0},
        {"gpu_memory_utilization": 0.0},
        {"gpu_memory_utilization": float("nan")},
        {"kv_cache_bytes": 1},
        {"threads": 0},
        {"terminator": ""},
        {"dtype": "int8"},
        {"max_model_len": 0},
        {"model": ""},
        {"max_lora": 4},
    ],
    ids=str,
)
def test_options_that_can_not_work_are_refused(fault: dict[str, Any]) -> None:
    assert EngineOptions(**BASE)
    with pytest.raises(ValidationError) as refused:
        EngineOptions(**{**BASE, **fault})
    assert len(refused.value.errors()) == 1


def test_options_are_frozen() -> None:
    with pytest.raises(ValidationError):
        EngineOptions(**BASE).max_loras = 5


@pytest.mark.parametrize(("rank", "kernel"), [(1, 1), (2, 8), (16, 16), (17, 32), (512, 512)])
def test_the_kernels_rank_is_the_next_one_up(rank: int, kernel: int) -> None:
    assert EngineOptions(**BASE, max_lora_rank=rank).kernel_rank == kernel


def test_every_field_tells_what_it_means() -> None:
    assert [name for name, field in EngineOptions.model_fields.items() if not field.description] == []


def test_a_knob_has_one_default_in_settings_and_engine() -> None:
    section, knobs = Serving().model_dump(), EngineKnobs().model_dump()
    assert {name: section[name] for name in knobs} == knobs
    facts = Base(model="m").model_dump()
    assert set(facts) | set(knobs) == set(EngineOptions.model_fields)


def test_importing_the_options_is_light() -> None:
    code = "import sys, serving.options; print([m for m in ('torch', 'vllm', 'numpy', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
