"""What a baseline leaves to be served: put on the bare base by PEFT and safetensors alone, it answers as its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from benchmarks.continual import low_rank_sequence
from benchmarks.continual.method import Deployment
from learning.base_delta import RevisableModel
from tests.benchmarks.continual.two_domains import COLOURS, SHAPES, TinyStream

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "every parameter": ("full", {"all_parameters": True}),
    "carried": ("low_rank_sequence", {}),
    "merged": ("low_rank_sequence", {"after": "merge"}),
    "orthogonal": ("low_rank_sequence", {"after": "orthogonal"}),
    "orthogonal, stabilised": ("low_rank_sequence", {"after": "orthogonal", "rank_stabilised": True}),
    "sparse": ("sparse_seta", {"density": 0.3}),
    "sparse, shared": ("sparse_seta", {"density": 0.3, "split": "all_shared"}),
}
IDS = torch.arange(4, 16)[None]


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> TinyStream:
    return TinyStream(tmp_path_factory.mktemp("base"))


def put_on(stream: TinyStream, deployed: Deployment, task: str) -> torch.nn.Module:
    """A fresh base with the deployment on it."""
    revisable = RevisableModel(stream.base.model.config._name_or_path, "float32", "cpu")
    revisable.stand_on(deployed.base_delta)
    adapter = deployed.adapters.get(task)
    return revisable.model if adapter is None else PeftModel.from_pretrained(revisable.model, str(adapter)).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("name", METHODS)
def test_what_is_deployed_answers_as_the_method_does(name: str, stream: TinyStream, tmp_path: Path) -> None:
    kind, changes = METHODS[name]
    method = stream.method(kind, **changes)
    bare = logits(stream.base.model)
    for task in (COLOURS, SHAPES):
        method.learn(task)
    before = stream.own()
    deployments = method.deployments(tmp_path / "deployed")
    assert all(torch.equal(part, stream.own()[key]) for key, part in before.items())
    assert [task for each in deployments for task in each.tasks] == ["colours", "shapes"]
    assert len(deployments) == (1 if method.has_one_model else 2)
    for deployed in deployments:
        for task in deployed.tasks:
            with method.answering(task) as model:
                own = logits(model)
            torch.testing.assert_close(logits(put_on(stream, deployed, task)), own, rtol=1e-5, atol=1e-5)
            assert (own - bare).abs().max() > 1e-3


def test_adapters_of_too_large_a_rank_become_a_change_of_the_base(
    stream: TinyStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = stream.method("low_rank_sequence", after="orthogonal")
    for task in (COLOURS, SHAPES):
        method.learn(task)
    (adapter,) = method.deployments(tmp_path / "one")
    assert (set(adapter.adapters), adapter.base_delta) == ({"colours", "shapes"}, None)
    monkeypatch.setattr(low_rank_sequence, "LARGEST_RANK", 5)
    (delta,) = method.deployments(tmp_path / "other")
    assert not delta.adapters and delta.base_delta is not None
    there = logits(put_on(stream, adapter, "colours"))
    torch.testing.assert_close(logits(put_on(stream, delta, "colours")), there, rtol=1e-5, atol=1e-5)


def test_what_has_learned_nothing_has_nothing_to_deploy(stream: TinyStream, tmp_path: Path) -> None:
    assert stream.method("full").deployments(tmp_path / "none") == []
