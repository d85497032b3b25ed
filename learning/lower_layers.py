"""The embeddings and first decoder layers of a base model, and nothing above them.

Only their tensors are read from the checkpoint. Given right-padded token ids the hidden states at real positions do not
depend on the padding, because a decoder looks only backwards. Works for Hugging Face decoders that name their layers
`layers.<i>` and their last norm `norm` (Llama, Mistral, Qwen, Gemma, OLMo and kin). Does not know of texts or pooling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from learning.checkpoint import read_tensors
from learning.errors import CheckpointError

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LowerLayers:
    """The first `depth` decoder layers of the checkpoint in `folder`; depth 0 is the embeddings alone."""

    def __init__(self, folder: Path, depth: int, dtype: str, device: str) -> None:
        config = AutoConfig.from_pretrained(folder).get_text_config()
        if not 0 <= depth <= config.num_hidden_layers:
            raise CheckpointError(
                f"base model {folder}: asked for layer {depth}, expected 0 to {config.num_hidden_layers}"
            )
        self.hidden_size = int(config.hidden_size)
        self.max_positions = int(getattr(config, "max_position_embeddings", 0)) or None
        self._device = torch.device(device)
        model: nn.Module = _truncated(folder, config, depth, DTYPES[dtype])
        self._model = model.to(self._device).requires_grad_(False).eval()

    @torch.inference_mode()
    def hidden_states(self, ids_BT: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states [b, t, h] of right-padded ids, one for each of `layers`; 0 is the embeddings' output.

        Raises `MemoryError` where the device has no room for them: the texts are not at fault.
        """
        try:
            outputs = self._model(input_ids=ids_BT.to(self._device), output_hidden_states=True, use_cache=False)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"features of {len(ids_BT)} texts: {error}") from error
        return [outputs.hidden_states[layer] for layer in layers]


def _truncated(folder: Path, config: PreTrainedConfig, depth: int, dtype: torch.dtype) -> PreTrainedModel:
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all overwritten
        model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    if not all(isinstance(getattr(model, part, None), nn.Module) for part in ("layers", "norm")):
        raise CheckpointError(f"base model {folder}: {type(model).__name__} has no `layers` and `norm` of its own")
    model.norm = nn.Identity()
    names = set(model.state_dict())
    found = read_tensors(folder, lambda name: _local_name(name) in names)
    tensors = {_local_name(name): tensor for name, tensor in found.items()}
    missing = sorted(names - set(tensors))
    if missing:
        raise CheckpointError(
            f"base model {folder}: {len(missing)} tensors of the first {depth} layers are not in the checkpoint, "
            f"first {missing[0]!r}; quantised and fused checkpoints are not supported here"
        )
    model.load_state_dict(tensors)
    if dtype == torch.float64:
        _keep_norms_in_float64(model)
    return model


def _local_name(name: str) -> str:
    """A checkpoint's tensor name without the prefixes that wrap the decoder."""
    return re.sub(r"^(language_model\.|model\.)+", "", name)


class _RootMeanSquareNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain, at the precision of x."""

    def __init__(self, gain_H: Tensor, epsilon: float) -> None:
        super().__init__()
        self.gain_H = nn.Parameter(gain_H, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return states * scale * self.gain_H


def _keep_norms_in_float64(model: PreTrainedModel) -> None:
    """Replaces norms that work in float32 inside.

    A detour through float32 rounds, and may round differently after a different batching; then features would agree to
    1e-7, not to 1e-15. Each replacement is checked against the original.
    """
    norms = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("RMSNorm")}
    generator = torch.Generator().manual_seed(0)
    for name, norm in norms.items():
        weight = getattr(norm, "weight", None)
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        if weight is None or epsilon is None:
            raise CheckpointError(f"{type(norm).__name__} at {name}: no weight and epsilon found; use dtype float32")
        probe = torch.randn(4, len(weight), generator=generator, dtype=torch.float64)
        expected = norm(probe).detach()
        for gain_H in (weight.detach(), weight.detach() + 1.0):  # the second is Gemma's way
            replacement = _RootMeanSquareNorm(gain_H, float(epsilon)).requires_grad_(False)
            if torch.allclose(replacement(probe), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())):
                model.set_submodule(name, replacement)
                break
        else:
            raise CheckpointError(f"{type(norm).__name__} at {name} is of an unknown kind; use dtype float32")
