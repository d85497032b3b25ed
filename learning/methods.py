"""The learning methods there are: a kind's options, and the learner made from them.

A new method is its learner (`learning.contract.Learner`) and an options model with a `kind` of its own; here it is one
line. Imports no method before it is asked for. Knows no settings and no placement.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from learning.errors import LearningError
from learning.lora_options import LoraOptions
from learning.osft_options import OsftOptions
from learning.seta_options import SetaOptions
from learning.training_options import TrainingOptions

if TYPE_CHECKING:
    from learning.contract import Learner
    from learning.template import PromptTemplate

_LEARNERS: dict[type[TrainingOptions], str] = {
    LoraOptions: "learning.lora.LoraLearner",
    SetaOptions: "learning.seta.SetaLearner",
    OsftOptions: "learning.osft.OsftLearner",
}
"""By options, where the learner is."""

OPTIONS: dict[str, type[TrainingOptions]] = {options.model_fields["kind"].default: options for options in _LEARNERS}
"""Options by kind."""


def learner(model_path: str, template: PromptTemplate, options: TrainingOptions) -> Learner:
    """The learner that `options` are for; takes the seconds that loading the base model takes."""
    for made_with, place in _LEARNERS.items():
        if isinstance(options, made_with):
            module, name = place.rsplit(".", 1)
            made: Learner = getattr(import_module(module), name)(model_path, template, options)
            return made
    raise LearningError(f"learner.kind: expected one of {sorted(OPTIONS)}, got {options.kind!r}")
