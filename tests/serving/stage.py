"""The real stage: a small pretrained base, random but strong PEFT adapters, a router trained on real messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.rls import RouterWeights, StreamingRidge
from learning.template import PromptTemplate
from serving.options import EngineOptions

TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}\n"
TERMINATOR = "\n"
DOMAINS = ("banking", "travel", "work")


def options(model: Path) -> EngineOptions:
    return EngineOptions(
        model=str(model),
        dtype="float32",
        max_model_len=256,
        chat_template=TEMPLATE,
        terminator=TERMINATOR,
        # As many slots as adapters: a base row that is taken for the last slot's must show.
        max_loras=len(DOMAINS),
        max_cpu_loras=4,
        max_lora_rank=8,
        max_num_seqs=16,
        kv_cache_bytes=64 << 20,
        enforce_eager=True,
        threads=1,
        # Few enough that long prompts come in chunks.
        engine={"max_num_batched_tokens": 64},
        tool_call_parser="hermes",
    )


def random_adapter(model: Path, folder: Path, seed: int) -> Path:
    """A PEFT folder in the upper two layers whose effect on the answers can't be missed."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=[3, 4],
    )
    tuned = get_peft_model(base, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.15)
    tuned.save_pretrained(folder)
    return folder


class Reference:
    """What PEFT itself generates, greedily, one prompt at a time."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._tuned: dict[Path, PeftModel] = {}

    def _with(self, folder: Path | None) -> torch.nn.Module:
        if folder is not None and folder not in self._tuned:
            base = AutoModelForCausalLM.from_pretrained(self._model, dtype=torch.float32)
            self._tuned[folder] = PeftModel.from_pretrained(base, folder).eval()
        return self._base if folder is None else self._tuned[folder]

    @torch.no_grad()
    def logprobs(self, folder: Path | None, tokens: Sequence[int]) -> torch.Tensor:
        """Log probabilities [n - 1, vocabulary] of each next token after the first."""
        return self._with(folder)(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)

    @torch.no_grad()
    def tokens(self, folder: Path | None, prompt: Sequence[int], count: int) -> list[int]:
        model = self._with(folder)
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        return tokens[len(prompt) :]


def template(model: Path) -> PromptTemplate:
    return PromptTemplate(str(model), chat_template=TEMPLATE, terminator=TERMINATOR)


def messages(data: Path, domain: str, split: str, count: int) -> list[str]:
    lines = (data / "clinc150" / domain / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["input"] for line in lines[:count]]


def extractor(model: Path, texts: Sequence[str]) -> FeatureExtractor:
    options = FeatureOptions(layers=(0, 2), poolings=("mean",), expansion=256, seed=7, max_tokens=256)
    bare = FeatureExtractor(str(model), options, template(model))
    return FeatureExtractor(str(model), options, template(model), bare.fit(texts))


def router(features: FeatureExtractor, texts: dict[str, list[str]]) -> RouterWeights:
    ridge = StreamingRidge(features.feature_dim, 10.0, fingerprint=features.fingerprint)
    for domain, own in texts.items():
        ridge.observe(features.extract(own), [domain] * len(own))
    return ridge.weights()
