"""vLLM worker extension: what is added to each worker of the engine.

vLLM imports this module in every worker, by `worker_extension_cls`; importing `serving.lora_rows` is what mends the
products of adapters there. It knows nothing of requests or manifests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import serving.lora_rows  # noqa: F401 - what it installs is what counts
from serving.hosted_layers import Hosting, host

if TYPE_CHECKING:
    import torch


class EngineWorker:
    """The class that vLLM mixes into its workers."""

    if TYPE_CHECKING:
        rank: int
        device: torch.device
        vllm_config: Any
        model_runner: Any
        reload_weights: Any

    def host_layers(self, *hosting: Any) -> None:
        """Compute the router's lower layers from now on for the replica, on this worker's device if on any GPU; the
        first worker alone does."""
        told = Hosting(*hosting)
        if self.rank == 0:
            own = {} if self.device.type == "cpu" else {"device": str(self.device)}
            host(told._replace(options={**told.options, **own}))

    def change_base(self, delta: str | None) -> None:
        """Reload the model's weights from its checkpoint, with those of the change in the folder `delta` in their
        place. Raises `LearningError` where that is none, and ValueError where it changes what the checkpoint has not:
        too late to keep the weights of before."""
        from vllm.model_executor.model_loader import get_model_loader

        from learning.base_delta import read_base_delta

        changed = read_base_delta(Path(delta)) if delta is not None else {}
        loader: Any = get_model_loader(self.vllm_config.load_config)
        own = loader.get_all_weights(self.vllm_config.model_config, self.model_runner.get_model())

        def weights() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in own:
                yield name, changed.pop(name, tensor)

        self.reload_weights(weights_iterator=weights())
        if changed:
            raise ValueError(f"{len(changed)} tensors are not in the checkpoint, first {min(changed)!r}")
