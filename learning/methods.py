"""The learning methods there are: a kind's options, and the learner made from them.

A new method is its learner (`learning.contract.Learner`) with an options model of a `kind` of its own, one line in
`OPTIONS` and one case in `learner`. Imports no method before it is asked for. Knows no settings and no placement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from learning.errors import LearningError
from learning.lora_options import LoraOptions
from learning.osft_options import OsftOptions
from learning.seta_options import SetaOptions
from learning.training_options import TrainingOptions

if TYPE_CHECKING:
    from learning.contract import Learner
    from learning.template import PromptTemplate

OPTIONS: dict[str, type[TrainingOptions]] = {
    "lora": LoraOptions,
    "seta": SetaOptions,
    "osft": OsftOptions,
}
"""Options by kind."""


def learner(model_path: str, template: PromptTemplate, options: TrainingOptions) -> Learner:
    """The learner that `options` are for; takes the seconds that loading the base model takes."""
    match options:
        case LoraOptions():
            from learning.lora import LoraLearner

            return LoraLearner(model_path, template, options)
        case SetaOptions():
            from learning.seta import SetaLearner

            return SetaLearner(model_path, template, options)
        case OsftOptions():
            from learning.osft import OsftLearner

            return OsftLearner(model_path, template, options)
        case _:
            raise LearningError(f"learner.kind: expected one of {sorted(OPTIONS)}, got {options.kind!r}")
