"""The router as it is served: scores linear in the features, one column for each domain.

Does not know how the weights came about, nor when a score is too low to go by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from learning.container import pack, unpack
from learning.errors import LearningError, UnseenDomain
from learning.heads import HEADS
from learning.router_options import Head
from learning.symmetric import Float64


@dataclass(frozen=True, eq=False)
class RouterWeights:
    """One column of scores for each domain. Raises `LearningError` on unlike shapes."""

    domains: tuple[str, ...]
    """The columns' names, sorted."""
    weight_DK: Float64  # noqa: N815 - shape suffix
    fingerprint: str
    bias_K: Float64 = field(default_factory=lambda: np.zeros(0))  # noqa: N815 - shape suffix
    """Added to every row of scores; zeros where none is given."""
    head: Head = "ridge"

    def __post_init__(self) -> None:
        columns = len(self.domains)
        if self.head not in HEADS:
            raise LearningError(f"weights of head {self.head!r}: expected one of {HEADS}")
        if self.bias_K.size == 0:
            object.__setattr__(self, "bias_K", np.zeros(columns))
        if self.weight_DK.ndim != 2 or self.weight_DK.shape[1] != columns or self.bias_K.shape != (columns,):
            raise LearningError(
                f"weights of shape {self.weight_DK.shape} and biases of shape {self.bias_K.shape}: expected "
                f"[d, {columns}] and [{columns}], a column for each domain"
            )

    def scores(self, features: ArrayLike) -> Float64:
        """features[n, d] -> float64[n, k], larger for a column that fits better; the unit is the head's.

        Ridge heads: about 1 for a prompt of the column's domain, about 0 for another. "lda": nats.
        """
        phi_ND = np.asarray(features, dtype=np.float64)
        if phi_ND.ndim != 2 or phi_ND.shape[1] != self.weight_DK.shape[0]:
            raise LearningError(f"scoring features of shape {phi_ND.shape}: expected [n, {self.weight_DK.shape[0]}]")
        scores_NK: Float64 = phi_ND @ self.weight_DK + self.bias_K
        return scores_NK

    def restrict(self, domains: Sequence[str]) -> RouterWeights:
        """Only the columns of `domains`, sorted. Raises `UnseenDomain` for one without a column."""
        missing = sorted(set(domains) - set(self.domains))
        if missing:
            raise UnseenDomain(f"restricting the router to {missing}: it has columns for {list(self.domains)}")
        kept = tuple(sorted(set(domains)))
        if kept == self.domains:
            return self
        places = {domain: column for column, domain in enumerate(self.domains)}
        columns = [places[domain] for domain in kept]
        weight_DK = np.ascontiguousarray(self.weight_DK[:, columns])
        return RouterWeights(kept, weight_DK, self.fingerprint, self.bias_K[columns], self.head)

    def to_bytes(self) -> bytes:
        """As safetensors; equal weights give equal bytes."""
        document = {"domains": self.domains, "fingerprint": self.fingerprint, "head": self.head}
        return pack({"weight": self.weight_DK, "bias": self.bias_K}, "router", document)

    @staticmethod
    def from_bytes(content: bytes) -> RouterWeights:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "router")
        try:
            domains, fingerprint, head = tuple(document["domains"]), str(document["fingerprint"]), document["head"]
            return RouterWeights(domains, tensors["weight"], fingerprint, tensors["bias"], head)
        except (KeyError, TypeError) as error:
            raise LearningError(
                f"reading the router's weights: expected domains, head, weights and biases, got "
                f"{type(error).__name__}: {error}; the bytes are of another kind"
            ) from error
