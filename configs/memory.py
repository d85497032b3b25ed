"""What each worker holds on its GPU, in bytes, term by term, from the settings and the base's shape alone.

With N weights of b bytes, T tokens at once, L layers of hidden width H, query and key widths Q and K, inner width I:

    engine    N b + slots r (sum of in + out of every linear module and the embeddings) b + key-value cache
              cache of a token: 2 L K b
    features  (embeddings and lower layers) b + T ((depth + 1) H + 4 H + Q + 2 K + 3 I) b + 8 T H
    learner   N b + 20 r (in + out of its targets, above the frozen layers) + saved activations + 16 V chunk

An adapter's weight takes 20 bytes: itself, its gradient, AdamW's two moments and the best state so far, in float32. A
word of the vocabulary takes 16 for each completion token of a chunk: logits and their gradient, once in the base's
precision and once in float32, and log-probabilities; less in float32. What a layer saves for the backward pass is
measured (`SAVED`); with checkpoints only its input stays, T H b, and one layer at a time is there whole, with its
gradients. `ASIDE` is a margin, not a measurement. What this module does not know: how many GPUs there are.
"""

from collections.abc import Mapping
from math import ceil

from configs.settings import Settings
from learning.model_shape import ModelShape

GIB = 1 << 30
WIDTH = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
ASIDE = GIB
"""Set aside for each process: CUDA's context, kernels, fragmentation; once more for an engine's captured graphs."""
SAVED = {4: (16, 8, 8, 16), 2: (18, 6, 4, 8)}
"""Bytes that a Llama layer with adapters on all seven modules saves for the backward pass, for each token and each unit
of H, Q, K and I, by the width of the base's numbers; the adapters' own rank is not counted."""
ENGINE_SHARE = 0.92
"""vLLM's own gpu_memory_utilization."""
_BATCHED_TOKENS = 2048
"""vLLM's own max_num_batched_tokens inside a process."""
_TRAINED_BYTES = 20
_LOGIT_BYTES = 16

CACHE = "key-value cache"
Terms = Mapping[str, int]


def cache_bytes_per_token(settings: Settings, shape: ModelShape) -> int:
    """Bytes of key-value cache that one token of one request takes."""
    return 2 * shape.layers * shape.key * WIDTH[settings.base.dtype]


def engine(settings: Settings, shape: ModelShape, gpu_bytes: int) -> Terms:
    """An engine on one of its GPUs. Where the cache has no size it is what the share leaves, be that below nothing."""
    serving, width = settings.serving, WIDTH[settings.base.dtype]
    parts = int(serving.engine.get("tensor_parallel_size", 1))
    every = serving.kernel_rank * shape.layers * sum(sum(widths) for widths in shape.linear.values())
    both_ends = 2 * serving.kernel_rank * (shape.vocabulary + shape.hidden)
    tokens = max(int(serving.engine.get("max_num_batched_tokens", _BATCHED_TOKENS)), serving.max_num_seqs)
    working = tokens * _passing(shape) * width + 8 * serving.max_num_seqs * shape.vocabulary
    terms = {
        "base weights": ceil(shape.weights * width / parts),
        "LoRA slots": ceil((serving.max_loras + 1) * (every + both_ends) * width / parts),
        "a step's activations": working,
        "set aside": ASIDE if serving.enforce_eager else 2 * ASIDE,
    }
    share = int((serving.gpu_memory_utilization or ENGINE_SHARE) * gpu_bytes)
    if serving.kv_cache_bytes is None:
        return terms | {CACHE: share - sum(terms.values())}
    terms[CACHE] = serving.kv_cache_bytes
    # Asked for at the start, when others may have what they need already, though not taken.
    return terms | {"asked for at the start, not used": max(0, share - sum(terms.values()))}


def features(settings: Settings, shape: ModelShape) -> Terms:
    """The lower layers of a worker that makes features on its GPU."""
    options = settings.features
    width, depth, tokens = WIDTH[options.dtype], max(options.layers or (0,)), options.batch_size * options.max_tokens
    states = tokens * ((depth + 1) * shape.hidden + _passing(shape)) * width
    return {
        "lower layers": shape.lower_weights(depth) * width,
        "a batch's features": states + 8 * tokens * shape.hidden,
        "set aside": ASIDE,
    }


def learner(settings: Settings, shape: ModelShape) -> Terms:
    """A learner at its largest micro-batch."""
    options = settings.learner
    width, layers = WIDTH[options.dtype], shape.layers - options.frozen_layers
    tokens = options.batch_size * options.max_tokens
    if options.micro_batch_tokens is not None:
        # An example is never divided: one that is longer than the budget goes alone.
        tokens = min(tokens, max(options.micro_batch_tokens, options.max_tokens))
    whole_layer = tokens * sum(
        each * units
        for each, units in zip(SAVED[width], (shape.hidden, shape.query, shape.key, shape.inner), strict=True)
    )
    # A name that is none of the model's counts nothing.
    modules = [widths for name, widths in shape.linear.items() if name in options.targets]
    trained = sum(
        _TRAINED_BYTES * options.weights_trained(*widths) + options.bytes_beside(*widths) for widths in modules
    )
    kept = layers * tokens * shape.hidden * width if options.gradient_checkpointing else (layers - 1) * whole_layer
    return {
        "base weights": shape.weights * width,
        "trained weights and optimiser": layers * trained,
        "activations": kept + 2 * whole_layer,
        "logits": _LOGIT_BYTES * shape.vocabulary * min(options.logit_chunk, tokens),
        "set aside": ASIDE,
    }


def _passing(shape: ModelShape) -> int:
    """Numbers that a token has at once on its way through a layer, where nothing is kept of it."""
    return 4 * shape.hidden + shape.query + 2 * shape.key + 3 * shape.inner
