"""What a model's config.json says about its kind: encoder or decoder, supported or not, and what features depend on.

Reads the file alone and needs neither torch nor transformers, so that an unsupported model is refused before anything
is loaded. Does not know weights, tokenizers, or how a model computes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learning.errors import CheckpointError

Config = Mapping[str, Any]

ENCODERS = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})
"""`model_type`s of the bidirectional encoders that features can be made with: layers in `encoder.layer`, embeddings in
`embeddings`."""

_UPPER = frozenset({"num_hidden_layers", "tie_word_embeddings", "final_logit_softcapping", "logits_scaling"})
_FILING = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "vocab_size"}
)
_TRAINING = frozenset(
    {
        "attention_dropout",
        "attention_probs_dropout_prob",
        "classifier_dropout",
        "embd_pdrop",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "initializer_range",
        "pretraining_tp",
        "resid_pdrop",
    }
)
_GENERATION = frozenset(
    {
        "bos_token_id",
        "do_sample",
        "eos_token_id",
        "max_length",
        "max_new_tokens",
        "output_attentions",
        "output_hidden_states",
        "repetition_penalty",
        "return_dict",
        "temperature",
        "top_k",
        "top_p",
        "use_cache",
    }
)
_TASK = frozenset({"finetuning_task", "id2label", "label2id", "problem_type", "task_specific_params"})
_WITHOUT_EFFECT = _UPPER | _FILING | _TRAINING | _GENERATION | _TASK
"""Keys that say nothing about the hidden states of the lower layers; a key that is not known here counts."""


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder. Raises `CheckpointError` where there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"got a {type(config).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"model {folder}: expected a config.json with a JSON object, got {type(error).__name__}: {error}; "
            "give a folder in Hugging Face layout"
        ) from error
    return config


def text_part(config: Config) -> Config:
    """The part about text of a model that also takes images or sound; the whole of any other."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else config


def is_encoder(config: Config) -> bool:
    """Whether features are those of a bidirectional encoder, which looks at all tokens from each."""
    return config.get("model_type") in ENCODERS and not config.get("is_decoder")


def check_supported(config: Config, where: str) -> None:
    """Raise `CheckpointError` unless this is a decoder that adapters and features can be made for.

    `where` names the model in the message. What only the weights tell (layers of other names, say) is found at loading.
    """
    text = text_part(config)
    kind = f"{where} (model_type {text.get('model_type', config.get('model_type'))})"
    if config.get("is_encoder_decoder") or text.get("is_encoder_decoder"):
        raise CheckpointError(f"{kind}: expected a decoder, got an encoder-decoder; choose a decoder-only model")
    if is_encoder(config):
        raise CheckpointError(
            f"{kind}: expected a decoder, got an encoder, which can't answer; "
            "name it in features.model and a decoder in base.model"
        )
    if experts := [key for key, value in sorted(text.items()) if "expert" in key and _positive(value)]:
        raise CheckpointError(
            f"{kind}: expected a dense decoder, got a mixture of experts ({experts[0]} = {text[experts[0]]}): experts "
            "are no plain linear layers that an adapter could be put on; choose a dense model"
        )
    if _positive(text.get("hidden_size_per_layer_input")):
        raise CheckpointError(
            f"{kind}: expected layers that follow from the one below, got inputs of their own for each layer "
            "(hidden_size_per_layer_input); choose a plain decoder"
        )
    if method := config.get("quantization_config") or text.get("quantization_config"):
        name = method.get("quant_method", "unnamed") if isinstance(method, Mapping) else method
        raise CheckpointError(
            f"{kind}: expected plain weights, got a quantised checkpoint ({name}); choose the unquantised model"
        )


def what_features_depend_on(config: Config, depth: int) -> dict[str, Any]:
    """The entries that hidden states up to layer `depth` may depend on; layers above it leave no trace."""
    kept = {key: value for key, value in text_part(config).items() if key not in _WITHOUT_EFFECT}
    if isinstance(types := kept.get("layer_types"), list):
        kept["layer_types"] = types[:depth]
    return kept


def _positive(value: object) -> bool:
    return isinstance(value, int) and value > 0
