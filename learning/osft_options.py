"""What an OSFT learner is made with. Knows no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learning.options import Count, disagreement
from learning.training_options import TrainingOptions

Share = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]


class OsftOptions(TrainingOptions):
    """How the base itself is trained for each closed domain, in directions that the others do without."""

    one_lane: ClassVar[bool] = True
    """Each training goes on from the base that the one before it left."""

    kind: Literal["osft"] = "osft"
    """Method; osft trains the base's own weights, orthogonally to directions that are kept, and makes no adapter."""
    form: Literal["core", "factors"] = "core"
    """core: a small matrix between fixed free directions, cheap in time and memory. factors: the free directions move
    as well, as in the paper; it learns more at the same rate, in 1.7 times the time and 1.4 times the memory."""
    basis: Literal["weights", "inputs", "kronecker"] = "weights"
    """Which directions are kept. weights: the greatest singular ones of the weights (the paper's). inputs: those in
    which the inputs of earlier domains lie. kronecker: those along which earlier domains' loss curves, form core only.
    With the last two the first domain is free. What one basis has kept is nothing to another."""
    ratio: Share | None = 0.5
    """Share of a weight's singular directions that is kept, from the first domain on; basis weights only. None adapts
    it to each module by its importance for the domain before, between `mrr` and beyond `trr`."""
    mrr: Share = 0.1
    """With `ratio` None: share that is kept where importance is nothing."""
    trr: Share = 0.8
    """With `ratio` None: share that is kept at mean importance, and everywhere in the first domain's training."""
    energy: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Share that is kept of each domain's inputs (basis inputs) or of all curvature (hard kronecker)."""
    curvature: Literal["soft", "hard"] = "soft"
    """soft: a direction moves the less the more the loss curves along it. hard: it moves freely or not at all."""
    softness: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 0.03
    """Curvature, in units of its mean, at which a direction moves half as far; basis kronecker, soft."""
    basis_examples: Count = 256
    """Training examples by which is measured what a domain needs kept; each costs a forward, and with basis kronecker
    a backward pass, of its own."""

    def weights_trained(self, inputs: int, outputs: int) -> int:
        rank = min(inputs, outputs)
        if self.basis == "weights":
            # Adaptive ranks differ by module, and are trr on average.
            rank -= int((self.trr if self.ratio is None else self.ratio) * rank)
        if self.form == "factors":
            return rank * (inputs + outputs + 1)
        return rank * rank if self.basis == "weights" else inputs * outputs

    def bytes_beside(self, inputs: int, outputs: int) -> int:
        small, whole = min(inputs, outputs), inputs * outputs
        kept = int((self.trr if self.ratio is None else self.ratio) * small)
        # A narrow weight is trained as a float32 copy.
        numbers = 0 if self.dtype == "float32" else whole
        if self.form == "factors" and self.basis == "weights":
            # What projects: those kept, or the free ones where these are fewer and span the rest.
            numbers += sum(size * (min(kept, small - kept) if size == small else kept) for size in (inputs, outputs))
        elif self.form == "factors":
            numbers += inputs * inputs // 2
        elif self.basis == "weights":
            numbers += (small - kept) * (inputs + outputs)
        else:
            numbers += inputs * inputs
            numbers += outputs * outputs + whole if self.basis == "kronecker" else 0
        return 4 * numbers

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.form == "factors" and self.basis == "kronecker":
            raise disagreement(
                "form", "expected core because basis is kronecker, which is no pair of subspaces, got factors"
            )
        if self.mrr > self.trr:
            raise disagreement("mrr", f"expected at most trr ({self.trr}), got {self.mrr}")
        return self
