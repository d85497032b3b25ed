"""From rendered prompts to the token ids that features are made from.

The base model gets a prompt as it was rendered. Another model has its own tokenizer and was never shown the base's
template: what that template writes before and behind a lone user message is taken off, and the model's own special
tokens are put around the rest. A prompt rendered from more than that (a system text, several turns) loses what it has
of the two and keeps the rest as it is.

A tokenizer reads a whole text before anything can be cut off, and megabytes take it seconds. So a text loses its
middle first by characters, `CHARACTERS_PER_TOKEN` for each token that is looked at, and then by tokens. Where tokens
have fewer characters than that on the average, as in any language and in source text, the second cut takes away all
that the first may have changed. Does not know of models or pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from learning.errors import LearningError, TemplateError
from learning.template import PromptTemplate
from learning.tokens import shorten

CHARACTERS_PER_TOKEN = 16
"""Characters read for each token looked at; part of the features' fingerprint."""
_SENTINEL = "anabranch-message"
_SAMPLES = ["", " Two  words.\n\tAnd 17 more: <s>\u00e9 \u6f22 \U0001f600</s>", "x" * 100]


class PromptTokens:
    """Token ids of rendered prompts, at most `max_tokens` each; longer ones lose their middle, and cost no more.

    `folder` holds the tokenizer. `of_base` says whether it is that of the base, which `template` rendered the prompts
    for. Raises `LearningError` where `max_tokens` leaves no room between the special tokens.
    """

    def __init__(self, folder: Path, max_tokens: int, template: PromptTemplate | None, *, of_base: bool) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._max_tokens = max_tokens
        self._specials = not of_base
        self._encode = self._quick() or self._slow
        self._before, self._behind = ("", "") if of_base or template is None else _frame(template)
        self._lead, self._trail = (0, 0) if of_base else self._special_tokens()
        if self._lead + self._trail >= max_tokens:
            raise LearningError(
                f"features.max_tokens: expected more than the {self._lead + self._trail} special tokens of {folder}, "
                f"got {max_tokens}"
            )
        padding = self._tokenizer.pad_token_id
        self.padding: int = 0 if of_base or padding is None else int(padding)
        """Id that fills a batch up; an encoder may tell positions by it, a decoder never looks at it."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; an empty list where the tokenizer finds nothing in it."""
        bare = [self._bounded(text.removeprefix(self._before).removesuffix(self._behind)) for text in texts]
        return [self._shortened(ids) for ids in self._encode(bare)]

    def _slow(self, texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = self._tokenizer(texts, add_special_tokens=self._specials)["input_ids"]
        return encoded

    def _quick(self) -> Callable[[list[str]], list[list[int]]] | None:
        """The same without what Python puts around it; None where it is not, or would not be, the same.

        That takes as long for a short prompt as its tokens do.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        backend.no_truncation()
        backend.no_padding()

        def encode(texts: list[str]) -> list[list[int]]:
            found = backend.encode_batch_fast(texts, add_special_tokens=self._specials)
            return [each.ids for each in found]

        return encode if encode(_SAMPLES) == self._slow(_SAMPLES) else None

    def _bounded(self, text: str) -> str:
        most = CHARACTERS_PER_TOKEN * self._max_tokens
        return text if len(text) <= most else text[: most // 2] + text[-(most // 2) :]

    def _shortened(self, ids: list[int]) -> list[int]:
        end = len(ids) - self._trail
        inner = shorten(ids[self._lead : end], self._max_tokens - self._lead - self._trail)
        return [*ids[: self._lead], *inner, *ids[end:]]

    def _special_tokens(self) -> tuple[int, int]:
        """How many special tokens stand before and behind a text."""
        mask = self._tokenizer(_SENTINEL, return_special_tokens_mask=True)["special_tokens_mask"]
        first = mask.index(0)
        return first, mask[::-1].index(0)


def _frame(template: PromptTemplate) -> tuple[str, str]:
    """What the template writes before and behind a lone user message, nothing where that is not the same for all."""
    if template.tells_time:
        return "", ""
    try:
        rendered = template.render([{"role": "user", "content": _SENTINEL}])
    except TemplateError:
        return "", ""
    parts = rendered.split(_SENTINEL)
    return (parts[0], parts[1]) if len(parts) == 2 else ("", "")
