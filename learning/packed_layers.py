"""A plain decoder's first layers over texts laid end to end, in float64 on the host.

    [t1 t2 ... | u1 u2 ... | v1 ...]   every product and norm once over all tokens, attention text by text

The model's own modules are made for rectangles and for any device; a prompt of fifty tokens spends half of its time in
what lies between the products, and most of that again where other work has taken the caches. These are the same sums,
in numpy, without padding. Only for models of which nothing but Llama's form is known: rotary positions, RMS norms
before attention and before a gated SiLU, grouped heads, all tokens before one looked at. Which model that is, is found
by looking and by trying: what comes out must be what the modules make of the same tokens. Does not know of texts or
pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learning.symmetric import Float64

KINDS = frozenset({"llama", "mistral", "qwen2"})
"""`model_type`s that may have this form."""
_ROWS, _SCORES = 256, 1 << 20
"""Queries of one text, and scores of them, held at once, which bounds memory where a text is long."""
_TABLE_BYTES = 4 << 20
"""Of what the first layer makes of each token alone; a vocabulary that takes more is not computed in advance."""
_DEVIATION = 1e-12
"""From the model's own modules, against the largest number."""


@dataclass(frozen=True, eq=False)
class _Affine:
    """Linear maps of one input side by side."""

    weight_IO: Float64  # noqa: N815 - shape suffix
    bias_O: Float64 | None  # noqa: N815 - shape suffix

    @staticmethod
    def of(*maps: nn.Linear) -> _Affine:
        weight_OI = torch.cat(tuple(each.weight for each in maps))
        biases = [each.bias for each in maps if each.bias is not None]
        if len(biases) not in (0, len(maps)):
            raise ValueError("some of the maps have a bias, and some have none")
        return _Affine(np.ascontiguousarray(_host(weight_OI).T), _host(torch.cat(tuple(biases))) if biases else None)

    def __call__(self, states_NI: Float64) -> Float64:
        out_NO: Float64 = states_NI @ self.weight_IO
        if self.bias_O is not None:
            out_NO += self.bias_O
        return out_NO


@dataclass(frozen=True, eq=False)
class _Norm:
    gain_H: Float64  # noqa: N815 - shape suffix
    epsilon: float

    def __call__(self, states_NH: Float64) -> Float64:
        squares_N = np.einsum("nh,nh->n", states_NH, states_NH)
        scale_N = 1.0 / np.sqrt(squares_N / states_NH.shape[1] + self.epsilon)
        normed_NH: Float64 = states_NH * scale_N[:, None]
        normed_NH *= self.gain_H
        return normed_NH


@dataclass(frozen=True, eq=False)
class _Layer:
    before: _Norm
    queries_keys_values: _Affine
    out: _Affine
    between: _Norm
    gate_up: _Affine
    down: _Affine


class PackedLayers:
    """The layers of `model`, a decoder in float64 on the host, for texts of at most `positions` tokens. Holds copies of
    its tensors, so that the model may be dropped. Use `of`."""

    def __init__(self, model: PreTrainedModel, positions: int) -> None:
        config = model.config
        self._heads: int = config.num_attention_heads
        self._groups: int = config.num_key_value_heads
        self._width = int(getattr(config, "head_dim", None) or config.hidden_size // self._heads)
        self._embedded_VH = _host(model.embed_tokens.weight)  # type: ignore[union-attr, arg-type]
        self._layers = [_layer(module) for module in model.layers]  # type: ignore[union-attr]
        self._turns = _turns(model, positions)
        rows = min(positions, _ROWS)
        self._later = np.triu(np.full((rows, rows), -np.inf), k=1)
        self._table_VO: Float64 | None = None
        if self._layers:
            first = self._layers[0]
            if len(self._embedded_VH) * first.queries_keys_values.weight_IO.shape[1] * 8 <= _TABLE_BYTES:
                self._table_VO = first.queries_keys_values(first.before(self._embedded_VH))

    @staticmethod
    def of(model: PreTrainedModel, positions: int) -> PackedLayers | None:
        """None where the model is of another form."""
        config = model.config
        rope = getattr(config, "rope_parameters", None) or {}
        if (
            config.model_type not in KINDS
            or config.hidden_act != "silu"
            or rope.get("rope_type", "default") not in ("default", "linear", "llama3")
            or any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
            or (config.model_type == "mistral" and config.sliding_window is not None)
        ):
            return None
        packed = PackedLayers(model, positions)
        return packed if packed._agrees(model, positions) else None

    def hidden_states(self, tokens: Sequence[Sequence[int]], layers: Sequence[int]) -> list[Float64]:
        """Hidden states float64[all tokens, h] of texts laid end to end, one for each of `layers`; layer 0 is the
        embeddings' output. Not finite where the model's own numbers are not."""
        ids_N = np.array(list(chain.from_iterable(tokens)), dtype=np.int64)
        texts = [slice(end - len(ids), end) for end, ids in zip(accumulate(map(len, tokens)), tokens, strict=True)]
        cosine, sine = np.concatenate([self._turns[:, : len(ids)] for ids in tokens], axis=1)
        states = [self._embedded_VH[ids_N]]
        with np.errstate(over="ignore", invalid="ignore"):
            for number, layer in enumerate(self._layers[: max(layers)]):
                known = self._table_VO[ids_N] if number == 0 and self._table_VO is not None else None
                states.append(self._through(layer, states[-1], known, texts, cosine, sine))
        return [states[number] for number in layers]

    def _through(
        self,
        layer: _Layer,
        states_NH: Float64,
        known: Float64 | None,
        texts: Sequence[slice],
        cosine: Float64,
        sine: Float64,
    ) -> Float64:
        mixed_NO = layer.queries_keys_values(layer.before(states_NH)) if known is None else known
        heads_NGD = mixed_NO.reshape(len(mixed_NO), -1, self._width)
        turned = heads_NGD[:, : -self._groups]
        half = self._width // 2
        swapped = np.concatenate([turned[..., half:], turned[..., :half]], axis=-1)
        swapped *= sine
        turned = turned * cosine
        turned += swapped
        attended = np.empty((len(states_NH), self._heads * self._width))
        for text in texts:
            self._attend(turned[text], heads_NGD[text, -self._groups :], attended[text])
        states_NH = states_NH + layer.out(attended)
        gated_NF = layer.gate_up(layer.between(states_NH))
        wide = gated_NF.shape[1] // 2
        gate_NF, up_NF = gated_NF[:, :wide], gated_NF[:, wide:]
        active_NF = np.exp(-gate_NF)
        active_NF += 1.0
        np.divide(gate_NF, active_NF, out=active_NF)
        active_NF *= up_NF
        states_NH += layer.down(active_NF)
        return states_NH

    def _attend(self, turned: Float64, values: Float64, out: Float64) -> None:
        """One text's: queries and keys [t, heads + groups, d], values [t, groups, d] into out [t, heads * d]."""
        length = len(turned)
        # [groups, heads of a group, t, d] against [groups, 1, d, t]
        queries = turned[:, : self._heads].reshape(length, self._groups, -1, self._width).transpose(1, 2, 0, 3)
        keys = turned[:, self._heads :].transpose(1, 2, 0)[:, None]
        seen = values.transpose(1, 0, 2)[:, None]
        rows = min(len(self._later), max(1, _SCORES // (self._heads * length)))
        for first in range(0, length, rows):
            end = min(first + rows, length)
            scores = queries[:, :, first:end] @ keys[..., :end]
            scores[..., first:] += self._later[: end - first, : end - first]
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            out[first:end] = (scores @ seen[:, :, :end]).transpose(2, 0, 1, 3).reshape(end - first, -1)

    def _agrees(self, model: PreTrainedModel, positions: int) -> bool:
        """Whether a few tokens become what the model's own modules make of them."""
        ids = [place * 7919 % len(self._embedded_VH) for place in range(min(12, positions))]
        layers = range(len(self._layers) + 1)
        with torch.inference_mode():
            theirs = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        ours = self.hidden_states([ids], layers)
        pairs = [(mine, _host(other[0])) for mine, other in zip(ours, theirs, strict=True)]
        return all(np.abs(mine - other).max() <= _DEVIATION * np.abs(other).max() for mine, other in pairs)


def _layer(module: Any) -> _Layer:
    attention, gated = module.self_attn, module.mlp
    return _Layer(
        _norm(module.input_layernorm),
        _Affine.of(attention.q_proj, attention.k_proj, attention.v_proj),
        _Affine.of(attention.o_proj),
        _norm(module.post_attention_layernorm),
        _Affine.of(gated.gate_proj, gated.up_proj),
        _Affine.of(gated.down_proj),
    )


def _norm(module: Any) -> _Norm:
    return _Norm(_host(module.gain_H), float(module.epsilon))


def _turns(model: PreTrainedModel, positions: int) -> Float64:
    """The model's cosines and sines by position, float64[2, positions, 1, head width]. Half of the sines are negative:
    of those that stand with what comes from behind. All are over the fourth root of the width, so that the product of a
    query and a key is over its square root."""
    like = torch.zeros(1, dtype=torch.float64)
    cosine, sine = model.rotary_emb(like, torch.arange(positions)[None])  # type: ignore[operator]
    turns = np.stack([_host(cosine[0]), _host(sine[0])])[:, :, None]
    width = turns.shape[-1]
    turns[1, :, :, : width // 2] *= -1.0
    turns /= width**0.25
    return turns


def _host(tensor: Tensor) -> Float64:
    array: Float64 = tensor.detach().to("cpu", torch.float64).numpy()
    return array
