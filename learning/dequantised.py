"""From a GGUF file to a folder in the Hugging Face layout, in bfloat16.

transformers reads the file and undoes the quantisation; what it then refuses to save as an ordinary model is written
here: weights, a configuration that says nothing of a quantisation any more, and the tokenizer with its chat template.
GGUF keeps numbers as float32, so that 1e-5 comes out as 9.999999747378752e-06: it is written as the former again.
Does not know where the file came from.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

_OF_THE_FILE = ("_model_name_or_path", "_name_or_path", "quantization_config", "transformers_version")
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def write_folder(quantised: Path, folder: Path) -> None:
    """Write the model in the GGUF file `quantised` into `folder`, which is there and empty."""
    with redirect_stderr(io.StringIO()):  # two bars; whoever asks for a folder draws its own
        tokenizer = AutoTokenizer.from_pretrained(quantised.parent, gguf_file=quantised.name)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            quantised.parent, gguf_file=quantised.name, dtype=torch.float32
        )
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_configuration(model), indent=2, sort_keys=True) + "\n")
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    kept = {key: value for key, value in json.loads(settings.read_text()).items() if key not in _OF_THIS_MACHINE}
    settings.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def _configuration(model: PreTrainedModel) -> dict[str, Any]:
    found = {key: value for key, value in model.config.to_diff_dict().items() if key not in _OF_THE_FILE}
    rounded = {key: float(str(np.float32(value))) for key, value in found.items() if isinstance(value, float)}
    return {**found, **rounded, "architectures": [type(model).__name__], "dtype": "bfloat16"}
