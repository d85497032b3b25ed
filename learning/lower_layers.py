"""The embeddings and first layers of a model, and nothing above them.

Only their tensors are read from the checkpoint. Given right-padded token ids the hidden states at real positions do not
depend on the padding: a decoder looks only backwards, an encoder is told which positions are real. Works for Hugging
Face decoders that name their layers `layers.<i>` and their last norm `norm` (Llama, Mistral, Qwen, Gemma, OLMo and kin)
and for encoders of the BERT family, `encoder.layer.<i>`. Does not know of texts or pooling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from learning.architecture import check_supported, is_encoder, read_config, what_features_depend_on
from learning.checkpoint import read_tensors, tensors_digest
from learning.errors import CheckpointError
from learning.exact_norms import keep_norms_in_float64
from learning.packed_layers import PackedLayers

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LowerLayers:
    """The first `depth` layers of the checkpoint in `folder`; depth 0 is the embeddings alone.

    `identity` is what their output depends on: entries of the configuration and a digest of the tensors, as JSON
    values. Raises `CheckpointError` on a model that is not supported or lacks tensors.
    """

    def __init__(self, folder: Path, depth: int, dtype: str, device: str) -> None:
        written = read_config(folder)
        self._bidirectional = is_encoder(written)
        if not self._bidirectional:
            check_supported(written, f"model {folder}")
        config = AutoConfig.from_pretrained(folder).get_text_config()
        if not 0 <= depth <= config.num_hidden_layers:
            raise CheckpointError(f"model {folder}: asked for layer {depth}, expected 0 to {config.num_hidden_layers}")
        self.hidden_size = int(config.hidden_size)
        self.device = torch.device(device)
        model = _truncated(folder, config, depth, DTYPES[dtype], self._bidirectional)
        tensors = _load(folder, model)
        self.max_positions = _positions(model, config)
        self.identity: list[Any] = [what_features_depend_on(written, depth), tensors_digest(folder, tensors)]
        if dtype == "float64":
            keep_norms_in_float64(model)
        self._dtype = dtype
        as_module: nn.Module = model
        as_module.to(self.device).requires_grad_(False).eval()
        self._model = model

    @torch.inference_mode()
    def hidden_states(self, ids_BT: Tensor, lengths_B: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Hidden states [b, t, h] of right-padded ids on the layers' device, one for each of `layers`.

        Layer 0 is the embeddings' output. `lengths_B` counts each row's real ids. Raises `MemoryError` where the device
        has no room for them: the texts are not at fault.
        """
        arguments: dict[str, Tensor] = {"input_ids": ids_BT.to(self.device)}
        if self._bidirectional:
            real_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
            arguments["attention_mask"] = real_BT.to(self.device, torch.int64)
        try:
            outputs = self._model(**arguments, output_hidden_states=True, use_cache=False)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"features of {len(ids_BT)} texts: {error}") from error
        return [outputs.hidden_states[layer] for layer in layers]

    def packed(self, positions: int) -> PackedLayers | None:
        """The same layers for texts laid end to end, in float64 on the host; None where they are something else.

        `positions` is the most tokens of a text. They hold tensors of their own: let go of these layers.
        """
        on_host = self._dtype == "float64" and self.device.type == "cpu"
        return PackedLayers.of(self._model, positions) if on_host else None


def _truncated(
    folder: Path, config: PreTrainedConfig, depth: int, dtype: torch.dtype, bidirectional: bool
) -> PreTrainedModel:
    """The model up to `depth` with random weights, without what stands above its layers."""
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are all overwritten
        model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
    expected = ("embeddings", "encoder") if bidirectional else ("layers", "norm")
    if not all(isinstance(getattr(model, part, None), nn.Module) for part in expected):
        raise CheckpointError(
            f"model {folder}: expected {' and '.join(f'`{part}`' for part in expected)} in it, got "
            f"{type(model).__name__} with {sorted(name for name, _ in model.named_children())}; choose a model whose "
            "parts are named like Llama's (a decoder) or BERT's (an encoder)"
        )
    if bidirectional:
        model.pooler = None  # type: ignore[assignment]  # its own forward asks whether it is there
    else:
        model.norm = nn.Identity()
    return model


def _load(folder: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """Fills the model with its tensors, and returns these as the checkpoint holds them, by their names in the model."""
    wrapping = re.compile(rf"^(language_model\.|model\.|{re.escape(model.base_model_prefix)}\.)+")
    names = set(model.state_dict())
    found = read_tensors(folder, lambda name: wrapping.sub("", name) in names)
    tensors = {wrapping.sub("", name): tensor for name, tensor in found.items()}
    if missing := sorted(names - set(tensors)):
        raise CheckpointError(
            f"model {folder}: {len(missing)} of {len(names)} tensors of the lower layers are not in the checkpoint, "
            f"first {missing[0]!r}; quantised and fused checkpoints are not supported here"
        )
    model.load_state_dict(tensors)
    return tensors


def _positions(model: PreTrainedModel, config: PreTrainedConfig) -> int | None:
    """How many tokens the model has positions for; None where the configuration names no bound."""
    positions = int(getattr(config, "max_position_embeddings", 0))
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(table, nn.Embedding) and table.padding_idx is not None:
        positions -= table.padding_idx + 1  # RoBERTa counts from behind the padding's own position
    return positions or None
