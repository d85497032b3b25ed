"""What all methods of a run stand on: the base, its template, and what is loaded once in a process.

Knows no method by name; methods of the service and baselines alike are made from it (`benchmarks.continual.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from cluster.errors import ClusterError
from learning.base_delta import RevisableModel
from learning.completion_loss import EncodedExample, encode
from learning.contract import Example, Learner
from learning.lora_options import LoraOptions
from learning.methods import learner
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from learning.training_options import TrainingOptions


class Workbench:
    """`training`: what every method is trained with where its own settings do not say otherwise, by the names of
    `learning.training_options`. `rows` examples are evaluated in one forward."""

    def __init__(
        self,
        base: str,
        template: PromptTemplate,
        training: Mapping[str, Any] | None = None,
        *,
        rows: int = 64,
    ) -> None:
        self.base, self.template = base, template
        self.training = dict(training or {})
        self.rows = rows
        self._learners: dict[str, Learner] = {}

    @cached_property
    def model(self) -> RevisableModel:
        """The base that adapters are put on to answer; whoever takes it leaves it bare."""
        return RevisableModel(self.base, self._plain.dtype, self._plain.device)

    @property
    def max_tokens(self) -> int:
        """Of prompt and completion."""
        return self._plain.max_tokens

    @property
    def logit_chunk(self) -> int:
        """Completion tokens whose logits exist at a time."""
        return self._plain.logit_chunk

    def options(self, model: type[TrainingOptions], settings: Mapping[str, Any]) -> TrainingOptions:
        """A method's options, of which `settings` are some. Raises `ClusterError` on settings that are none."""
        try:
            return model.model_validate({**self.training, **settings})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ClusterError(f"settings of {settings.get('kind', 'all methods')}: {where}: {first['msg']}") from None

    def learner(self, options: TrainingOptions) -> Learner:
        """The learner of these options, made once; it keeps nothing between jobs."""
        key = options.model_dump_json()
        if key not in self._learners:
            self._learners[key] = learner(self.base, self.template, options)
        return self._learners[key]

    def budget(self) -> TokenBudget:
        """Pieces that examples are evaluated in."""
        return TokenBudget(self.rows, self._plain.micro_batch_tokens)

    def encoded(self, examples: Sequence[Example], what: str) -> list[EncodedExample]:
        """All of them, in order. Raises `ClusterError` where one does not fit, as it would be missing in a score."""
        encoded = encode(examples, self.template, self.max_tokens)
        if len(encoded) != len(examples):
            raise ClusterError(
                f"{what}: {len(examples) - len(encoded)} of {len(examples)} completions do not fit into "
                f"{self.max_tokens} tokens; raise max_tokens"
            )
        return encoded

    @cached_property
    def _plain(self) -> TrainingOptions:
        return self.options(LoraOptions, {})
