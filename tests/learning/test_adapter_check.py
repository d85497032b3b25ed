"""Adapters made elsewhere: what PEFT writes is taken, whatever is spoiled is refused with its reason, and nothing of
what is refused is opened further than it has to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from learning.adapter_check import AdapterCheck, norms_of
from learning.adapter_norms import check_norms, effective_norm, layer_norms, most_norm
from learning.adapter_shape import StoredAdapter
from learning.base_modules import BaseModules
from learning.errors import LearningError
from tests.learning.elsewhere import (
    CONFIG,
    CORRUPT,
    WEIGHTS,
    configured,
    each_of,
    facts,
    pickle_beside,
    write_adapter,
    written,
)

OURS = ("b" * 64, "")


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("made") / "adapter", llama)


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "adapter"))


@pytest.fixture
def check(llama: Path) -> AdapterCheck:
    return AdapterCheck(str(llama), max_rank=16)


def test_what_peft_writes_is_taken_and_kept_byte_for_byte(check: AdapterCheck, adapter: Path) -> None:
    checked = check.folder(adapter, OURS, [])
    assert (checked.rank, checked.weights) == (4, (adapter / WEIGHTS).read_bytes())
    (adapter / CONFIG).write_bytes(checked.config)
    assert StoredAdapter.read(adapter).shape.scale == 2.0
    assert check.content(checked.config, checked.weights, [], as_written=True).config == checked.config
    assert norms_of(checked.config, checked.weights) == checked.norms
    with pytest.raises(LearningError, match="as this check writes it"):
        check.content(checked.config + b" ", checked.weights, [], as_written=True)


@pytest.mark.parametrize("name", CORRUPT)
def test_a_spoiled_one_is_refused_with_the_reason(check: AdapterCheck, adapter: Path, name: str) -> None:
    spoil, reason = CORRUPT[name]
    spoil(adapter)
    with pytest.raises(LearningError, match=reason) as refused:
        check.folder(adapter, OURS, [])
    assert len(str(refused.value)) < 700 and "\n" not in str(refused.value)


def test_a_pickle_beside_is_named_and_not_opened(check: AdapterCheck, adapter: Path) -> None:
    pickle_beside(adapter)
    checked = check.folder(adapter, OURS, [])
    assert any("training_args.bin" in note for note in checked.notes)
    assert not (adapter.parent / "unpickled").exists()


@pytest.mark.parametrize(
    "variant",
    [
        {"use_rslora": True},
        {"targets": "all-linear"},
        {"targets": r".*\.(1|2)\..*(up|gate)_proj"},
        {"layers_to_transform": [3]},
        {"init_lora_weights": "gaussian"},
        {"lora_dropout": 0.1},
    ],
    ids=str,
)
def test_other_ways_of_plain_lora_are_taken(
    check: AdapterCheck, llama: Path, tmp_path: Path, variant: dict[str, object]
) -> None:
    folder = write_adapter(tmp_path / "variant", llama, **variant)  # type: ignore[arg-type]
    checked = check.folder(folder, OURS, [])
    (folder / CONFIG).write_bytes(checked.config)
    StoredAdapter.read(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_have_their_norms(check: AdapterCheck, adapter: Path, dtype: torch.dtype) -> None:
    wide = check.folder(adapter, OURS, []).norms
    for end in ("lora_A.weight", "lora_B.weight"):
        each_of(end, lambda tensor: tensor.to(dtype), only_first=False)(adapter)
    narrow = check.folder(adapter, OURS, []).norms
    assert narrow == pytest.approx(wide, rel=1e-2) and narrow != wide


def test_an_adapter_of_a_wider_base_is_refused(check: AdapterCheck, tmp_path: Path) -> None:
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    LlamaForCausalLM(LlamaConfig(vocab_size=260, **shape)).save_pretrained(tmp_path / "wider")
    folder = write_adapter(tmp_path / "adapter", tmp_path / "wider")
    assert AdapterCheck(str(tmp_path / "wider"), 16).folder(folder, OURS, []).rank == 4
    with pytest.raises(LearningError, match=r"expected shape .* another base"):
        check.folder(folder, OURS, [])


def test_another_base_by_its_name_alone_is_told(check: AdapterCheck, adapter: Path) -> None:
    assert check.folder(adapter, OURS, []).notes == ()
    configured(base_model_name_or_path="owner/other")(adapter)
    assert "owner/other" in check.folder(adapter, OURS, []).notes[0]


def test_its_own_facts_let_it_pass(check: AdapterCheck, adapter: Path) -> None:
    facts("b" * 64)(adapter)
    assert check.folder(adapter, OURS, []).rank == 4


def test_the_widths_are_those_of_the_loaded_base(llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    linear = {
        name: (part.in_features, part.out_features)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and ".layers." in name
    }
    base = BaseModules.of(str(llama))
    assert base.widths == linear
    name = min(linear)
    weight = model.get_submodule(name).weight
    assert base.norm(name) == pytest.approx(float(torch.linalg.matrix_norm(weight.detach().double())), rel=1e-6)


# -- norms ------------------------------------------------------------------------------------------------------------


@given(
    rank=st.integers(1, 5),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 9),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 9),
)
def test_the_norm_is_that_of_the_product(rank: int, inputs: int, outputs: int, scale: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    a_RI, b_OR = draw.normal(size=(rank, inputs)), draw.normal(size=(outputs, rank))
    assert effective_norm(a_RI, b_OR, scale) == pytest.approx(float(np.linalg.norm(scale * b_OR @ a_RI)), rel=1e-9)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40), st.floats(1e3, 1e9))
def test_one_huge_peer_does_not_raise_the_bound(peers: list[float], huge: float) -> None:
    middle = float(np.exp(np.median(np.log(peers))))
    assert 10 * middle * (1 - 1e-9) <= most_norm(peers) <= 100 * middle * (1 + 1e-9)
    assert most_norm([*peers, *peers, huge]) <= 100 * max(peers) * (1 + 1e-9)


def test_peers_bound_it_where_there_are_any(check: AdapterCheck, adapter: Path) -> None:
    alike = check.folder(adapter, OURS, []).norms
    assert check.folder(adapter, OURS, [alike, alike]).norms == alike
    small = {module: norm / 1000 for module, norm in alike.items()}
    with pytest.raises(LearningError, match="by the adapters in service"):
        check.folder(adapter, OURS, [small, small, small])
    configured(lora_alpha=8 * 50)(adapter)
    with pytest.raises(LearningError, match="by the adapters in service"):
        check.folder(adapter, OURS, [alike])


def test_no_number_is_no_norm_that_passes() -> None:
    class Ones:
        def norm(self, module: str) -> float:
            return 1.0

    module = "model.layers.0.mlp.up_proj"
    for norm in (float("nan"), float("inf")):
        for peers in ([], [{module: 1.0}]):
            with pytest.raises(LearningError):
                check_norms({module: norm}, peers, Ones())
    assert layer_norms({module: 3.0, "model.layers.0.mlp.down_proj": 4.0}) == {0: 5.0}


# -- whatever comes ---------------------------------------------------------------------------------------------------

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@PROPERTY
@given(data=st.data())
def test_flipped_bytes_are_refused_or_mean_what_the_library_reads(
    check: AdapterCheck, made: Path, data: st.DataObject
) -> None:
    """Whatever the check takes, the library reads, with the names and shapes that the base has."""
    content = bytearray((made / WEIGHTS).read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    places = st.lists(st.tuples(st.integers(0, length - 1), st.integers(0, 255)), min_size=1, max_size=4)
    for place, value in data.draw(places):
        content[place] = value
    whole = load_file(made / WEIGHTS)
    try:
        check.content((made / CONFIG).read_bytes(), bytes(content), [])
    except LearningError:
        return
    read = load(bytes(content))
    assert {name: each.shape for name, each in read.items()} == {name: each.shape for name, each in whole.items()}


@PROPERTY
@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_refused_in_words(check: AdapterCheck, made: Path, content: bytes) -> None:
    for config, weights in (((made / CONFIG).read_bytes(), content), (content, (made / WEIGHTS).read_bytes())):
        with pytest.raises(LearningError):
            check.content(config, weights, [])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(data=st.data())
def test_any_entry_of_a_configuration_is_refused_or_without_effect(
    check: AdapterCheck, made: Path, data: st.DataObject
) -> None:
    """What is kept is the same whatever else stood there, or the reading says why not."""
    config = json.loads((made / CONFIG).read_text())
    key = data.draw(st.sampled_from(sorted(config.keys() - {"base_model_name_or_path"})) | st.text(max_size=12))
    value = data.draw(JSON)
    try:
        text = json.dumps({**config, key: value})
        checked = check.content(text.encode(), (made / WEIGHTS).read_bytes(), [])
    except (LearningError, UnicodeEncodeError):
        return
    kept = json.loads(checked.config)
    assert kept.keys() >= {"r", "lora_alpha", "target_modules"}
    before = json.loads(check.content((made / CONFIG).read_bytes(), (made / WEIGHTS).read_bytes(), []).config)
    differing = {name for name in kept if kept[name] != before[name]}
    assert differing <= {"lora_alpha", "use_rslora", "base_model_name_or_path"} & {key}


@PROPERTY
@given(
    names=st.lists(st.text(max_size=20), min_size=1, max_size=3, unique=True),
    shape=st.sampled_from([(4, 32), (1,), ()]),
)
def test_tensors_of_any_name_are_refused(
    check: AdapterCheck, made: Path, names: list[str], shape: tuple[int, ...]
) -> None:
    try:
        content = save({name: torch.zeros(shape) for name in names})
    except (SafetensorError, UnicodeEncodeError):
        return
    with pytest.raises(LearningError):
        check.content((made / CONFIG).read_bytes(), content, [])


def test_more_files_than_an_adapter_has_are_refused(check: AdapterCheck, adapter: Path) -> None:
    for number in range(1001):
        written(f"{number}.txt", b"x")(adapter)
    with pytest.raises(LearningError, match=r"100\d files"):
        check.folder(adapter, OURS, [])
