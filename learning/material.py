"""What of a job's examples a training uses, encoded: to train on, to watch, to judge by, and each segment's exam.

Knows no method.
"""

from __future__ import annotations

from dataclasses import dataclass

from learning.completion_loss import EncodedExample, encode
from learning.contract import TrainingJob
from learning.errors import LearningError
from learning.repeats import in_force, spread, without_repeats
from learning.template import PromptTemplate
from learning.training_options import TrainingOptions


@dataclass(frozen=True)
class JobMaterial:
    """A job's examples, encoded."""

    train: list[EncodedExample]
    judged: list[EncodedExample]
    """Held-out ones that judge the outcome."""
    watched: list[EncodedExample]
    """Those among them that are measured while training."""
    exams: dict[int, list[EncodedExample]]
    """Of each segment of the domain, what the job's examples don't answer otherwise."""
    skipped: int
    shortened: int

    @classmethod
    def of(cls, job: TrainingJob, template: PromptTemplate, options: TrainingOptions) -> JobMaterial:
        """Raises `LearningError` where nothing is left to train on."""
        news = [*job.train, *job.held_out]
        exams = {incumbent.segment: in_force(incumbent.exam, news) for incumbent in job.of_domain()}
        judges = [*job.held_out, *(example for exam in exams.values() for example in exam)]
        kept, repeated = without_repeats(job.train, judges)
        train, held_out = (encode(examples, template, options.max_tokens) for examples in (kept, job.held_out))
        if not train:
            raise LearningError(
                f"training {job.domain} v{job.version}: {repeated} of {len(job.train)} examples ask what a held-out "
                f"one asks, and of the others none has a completion that fits into {options.max_tokens} tokens; "
                "raise max_tokens or mend the examples"
            )
        judged = spread(held_out, options.judge_examples)
        return cls(
            train=train,
            judged=judged,
            watched=spread(judged, options.evaluate_examples),
            exams={segment: encode(exam, template, options.max_tokens) for segment, exam in exams.items()},
            skipped=repeated + len(kept) - len(train) + len(job.held_out) - len(held_out),
            shortened=sum(example.is_cut for example in (*train, *held_out)),
        )
