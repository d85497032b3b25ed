"""A causal language model in two parts: hidden states at every position, logits at chosen ones.

Logits are a model's greatest tensor, its vocabulary for each position; taken at a few positions at a time they are a
small one. What models do to them besides (a cap, Gemma's; a factor, Cohere's and Granite's) follows their config, and
the two parts are compared with the model's own forward before they are used. A model whose parts don't give what the
whole gives is used as a whole. Does not know what the logits are for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_PROBE_TOKENS = 8


class OutputLayer:
    """The parts of `model`, adapters in it included; forwards run under autocast where its weights are 16 bit wide."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._decoder: nn.Module = model.base_model
        self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        config = model.config.get_text_config()
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._factor = float(getattr(config, "logit_scale", None) or 1.0)
        self._divisor = float(getattr(config, "logits_scaling", None) or 1.0)
        self.apart = self._parts_agree()
        """Whether logits are made from hidden states; otherwise the model's own forward makes them."""

    @property
    def device(self) -> torch.device:
        """Where ids belong."""
        return self._model.device

    def states(self, ids_BT: Tensor, rows_N: Tensor, columns_N: Tensor) -> Tensor:
        """float[n, h or vocabulary]: what `logits` needs of right-padded ids, at these rows and columns."""
        with self._autocast():
            if self.apart:
                states_BTH: Tensor = self._decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
                return states_BTH[rows_N, columns_N]
            needed = torch.arange(int(columns_N.min()), ids_BT.shape[1], device=self.device)
            whole_BCV: Tensor = self._model(input_ids=ids_BT, logits_to_keep=needed, use_cache=False).logits
            # Counted from the end, as a model may give all columns whatever it is asked for.
            return whole_BCV[rows_N, columns_N - ids_BT.shape[1] + whole_BCV.shape[1]]

    def logits(self, states_NH: Tensor) -> Tensor:
        """float32[n, vocabulary] at chosen positions of `states`."""
        if not self.apart:
            return states_NH.float()
        with self._autocast():
            return self._from_hidden(states_NH).float()

    def _from_hidden(self, states_NH: Tensor) -> Tensor:
        logits_NV: Tensor = self._head(states_NH)
        if self._factor != 1.0:
            logits_NV = logits_NV * self._factor
        if self._divisor != 1.0:
            logits_NV = logits_NV / self._divisor
        if self._cap is not None:
            logits_NV = torch.tanh(logits_NV / self._cap) * self._cap
        return logits_NV

    @torch.inference_mode()
    def _parts_agree(self) -> bool:
        if self._head is None or self._decoder is self._model:
            return False
        ids_BT = torch.arange(_PROBE_TOKENS, device=self.device)[None] % self._head.weight.shape[0]
        whole = self._model(input_ids=ids_BT, use_cache=False).logits
        states = getattr(self._decoder(input_ids=ids_BT, use_cache=False), "last_hidden_state", None)
        if states is None or states.shape[-1] != self._head.weight.shape[1]:
            return False
        parts = self._from_hidden(states)
        # The same products in the same precision: they differ by rounding, if at all.
        tolerance = max(1e-5, 2 * torch.finfo(whole.dtype).eps) * float(whole.abs().max())
        return parts.shape == whole.shape and float((parts - whole).abs().max()) <= tolerance

    def _autocast(self) -> AbstractContextManager[object]:
        narrow = self._model.dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, dtype=self._model.dtype if narrow else None, enabled=narrow)
