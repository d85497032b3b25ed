"""Which directions of each weight are kept for earlier domains: three bases, and what each leaves for the next time.

*weights* (OSFT, arXiv 2504.07097): k = floor(rho min(out, in)) greatest singular directions, rho fixed or

    rho_l = mrr + I_l (trr - mrr)        I_l = |A W^T|^2 / (|A| |W A W^T|), over its mean

with A the second moment of the inputs of the domain before. The paper's I is the mean cosine of x and W x, which only
square weights have; ours is the cosine of the Gram matrices of inputs and outputs (linear CKA, arXiv 1905.00414, not
centred), for weights of every shape. Ours beyond the paper, not to be cited as OSFT: *inputs*, the subspace that
holds `energy` of each domain's inputs (after GPM, arXiv 2103.09762), and *kronecker*, curvature-informed OSFT (ours):

    H = lambda_G lambda_A^T / its mean        K = 1 / (1 + H / softness), or 0 for the greatest H and 1 for the others

in the eigenvectors of the sums over domains of G and A (`learning.second_moments`), each first divided by its mean
eigenvalue: gradients fall with the loss, and a domain that is learned well is not to be kept the less for it. Does not
know how training is held to them. Files of a state: `kept.safetensors`, `kept.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from learning.errors import LearningError
from learning.free_directions import FreeDirections, beside_rows, by_weight
from learning.osft_options import OsftOptions
from learning.second_moments import SecondMoments

_TENSORS, _FACTS = "kept.safetensors", "kept.json"
_INPUTS, _GRADIENTS = ".inputs", ".gradients"


@dataclass(frozen=True)
class Kept:
    """What a basis knows of the domains so far, by the modules' names."""

    basis: str
    importances: dict[str, float] = field(default_factory=dict)
    """Basis weights: of the last domain, not normalised."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """float32. Basis inputs: orthonormal rows [q, in]. Basis kronecker: a module's two sums of moments, to which each
    domain adds one whose mean eigenvalue is 1."""

    @classmethod
    def read(cls, folder: Path) -> Kept:
        """Raises `LearningError` where the folder holds none."""
        try:
            facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
            importances = {str(name): float(each) for name, each in facts["importances"].items()}
            return cls(str(facts["basis"]), importances, load_file(folder / _TENSORS))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise LearningError(f"state {folder}: expected kept directions, got {error}; restore it") from error

    def save(self, folder: Path) -> None:
        """Writes the two files into a new folder."""
        folder.mkdir()
        tensors = {name: each.detach().cpu().contiguous() for name, each in sorted(self.tensors.items())}
        save_file(tensors, folder / _TENSORS)
        facts = {"basis": self.basis, "importances": self.importances}
        (folder / _FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


class Basis(Protocol):
    """Says what of each weight is free, and what of a domain it has to keep in mind."""

    needs_inputs: bool
    """Whether `after` has to be told the moments of the domain just learned."""
    needs_gradients: bool

    def free(self, name: str, weight_OI: Tensor) -> FreeDirections:
        """Of the module of that name, whose weight is float[out, in]."""

    def after(self, weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoments]) -> Kept | None:
        """What the next training needs to know, the domain just learned included; None where that is nothing."""


def basis_of(options: OsftOptions, before: Kept | None) -> Basis:
    """The one that is asked for; what another has left is of no use to it."""
    known = before if before is not None and before.basis == options.basis else Kept(options.basis)
    if options.basis == "weights":
        return SingularBasis(options, known)
    return InputBasis(options, known) if options.basis == "inputs" else CurvatureBasis(options, known)


class SingularBasis:
    """The paper's: the greatest singular directions of the weights as they are."""

    needs_gradients = False

    def __init__(self, options: OsftOptions, known: Kept) -> None:
        self._options, self._importances = options, known.importances
        self.needs_inputs = options.ratio is None

    def kept(self, name: str, directions: int) -> int:
        """How many of a module's singular directions are kept."""
        options = self._options
        if options.ratio is not None:
            return int(options.ratio * directions)
        mean = sum(self._importances.values()) / max(1, len(self._importances))
        importance = self._importances.get(name, mean) / mean if mean > 0.0 else 1.0
        return min(directions, int((options.mrr + importance * (options.trr - options.mrr)) * directions))

    def free(self, name: str, weight_OI: Tensor) -> FreeDirections:
        """See `Basis`."""
        return by_weight(weight_OI, self.kept(name, min(weight_OI.shape)))

    def after(self, weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoments]) -> Kept | None:
        """See `Basis`."""
        if not self.needs_inputs:
            return None
        return Kept("weights", {name: importance(weights[name], each.inputs) for name, each in moments.items()})


class InputBasis:
    """Ours, after GPM: what acts on the inputs of earlier domains is kept."""

    needs_inputs, needs_gradients = True, False

    def __init__(self, options: OsftOptions, known: Kept) -> None:
        self._energy, self._rows = options.energy, known.tensors

    def free(self, name: str, weight_OI: Tensor) -> FreeDirections:
        """See `Basis`."""
        rows_QI = self._rows.get(name)
        return beside_rows(None if rows_QI is None else rows_QI.to(weight_OI.device))

    def after(self, weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoments]) -> Kept:
        """See `Basis`."""
        rows = {name: spanning(self._rows.get(name), each.inputs, self._energy) for name, each in moments.items()}
        return Kept("inputs", tensors={**self._rows, **rows})


class CurvatureBasis:
    """Curvature-informed OSFT (ours): a change along which earlier domains' loss curves is small, or none."""

    needs_inputs, needs_gradients = True, True

    def __init__(self, options: OsftOptions, known: Kept) -> None:
        self._options, self._sums = options, known.tensors

    def free(self, name: str, weight_OI: Tensor) -> FreeDirections:
        """See `Basis`."""
        sides = [self._sums.get(name + end) for end in (_GRADIENTS, _INPUTS)]
        sums = [each.to(weight_OI.device).double() for each in sides if each is not None]
        if len(sums) < len(sides):  # nothing was learned yet, or nothing that has a gradient
            return FreeDirections()
        (values_O, left_OO), (values_I, right_II) = map(torch.linalg.eigh, sums)
        factor_OI = movable(values_O, values_I, self._options)
        return FreeDirections(left_OO, right_II.T.contiguous(), factor=factor_OI)

    def after(self, weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoments]) -> Kept:
        """See `Basis`."""
        sums = dict(self._sums)
        for name, each in moments.items():
            for end, moment in ((_INPUTS, each.inputs), (_GRADIENTS, each.gradients)):
                if moment is not None and (mean := float(moment.trace()) / len(moment)) > 0.0:
                    sums[name + end] = moment.cpu() / mean + sums.get(name + end, torch.zeros(()))
        return Kept("kronecker", tensors=sums)


def importance(weight_OI: Tensor, inputs_II: Tensor) -> float:
    """Cosine, 0 to 1, of the Gram matrices of a module's inputs, of this second moment, and of its outputs."""
    weight_OI, inputs_II = weight_OI.double(), inputs_II.double()
    through_IO = inputs_II @ weight_OI.T
    both = float(inputs_II.norm()) * float((weight_OI @ through_IO).norm())
    return float(through_IO.square().sum()) / both if both > 0.0 else 0.0


def spanning(rows_QI: Tensor | None, inputs_II: Tensor, energy: float) -> Tensor:
    """float32[q', in]: orthonormal rows, those given first, that hold `energy` of these inputs, as few as can be."""
    inputs_II = inputs_II.double()
    known_QI = (inputs_II[:0] if rows_QI is None else rows_QI.to(inputs_II.device)).double()
    rest_II = inputs_II - known_QI.T @ (known_QI @ inputs_II)
    rest_II = rest_II - (rest_II @ known_QI.T) @ known_QI
    values_I, vectors_II = torch.linalg.eigh((rest_II + rest_II.T) / 2)
    whole = float(inputs_II.trace())
    held_I = (whole - float(values_I.sum())) + torch.cat([values_I.new_zeros(1), values_I.flip(0).cumsum(0)])
    enough = (held_I >= energy * whole * (1.0 - 1e-12)).nonzero()
    most = len(inputs_II) - len(known_QI)
    more = min(most, int(enough[0]) if len(enough) else most)
    all_IQ = torch.cat([known_QI, vectors_II.flip(1)[:, :more].T]).T
    orthonormal_IQ: Tensor = torch.linalg.qr(all_IQ)[0]
    return orthonormal_IQ.T.float().cpu().contiguous()


def movable(values_O: Tensor, values_I: Tensor, options: OsftOptions) -> Tensor:
    """float64[out, in]: how far a change may move along each pair of eigenvectors, by the eigenvalues of both sides."""
    curving_OI = values_O.clamp(min=0.0)[:, None] * values_I.clamp(min=0.0)
    mean = float(curving_OI.mean())
    if mean <= 0.0:
        return torch.ones_like(curving_OI)
    if options.curvature == "soft":
        return torch.reciprocal(1.0 + curving_OI / mean / options.softness)
    falling, order = curving_OI.flatten().sort(descending=True, stable=True)
    before = falling.cumsum(0) - falling
    factor = torch.ones_like(falling)
    factor[order[before < options.energy * float(falling.sum()) * (1.0 - 1e-12)]] = 0.0
    return factor.reshape(curving_OI.shape)
