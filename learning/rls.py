"""The router: ridge regression from features to domains, streamed.

With features x_i in R^d, one-hot targets y_i over the K domains and row weights u_i, the router is

    W = argmin sum_i u_i ||W^T x_i - y_i||^2 + ridge ||W||^2 = (A + ridge I)^-1 C,
    A = sum_i u_i x_i x_i^T,      C = sum_i u_i x_i y_i^T      (Any-SSR, arXiv 2503.13575, the joint ridge solution)

A and C are sums, so a router fed in any order, in any blocks or on several machines holds what one batch solve over the
same rows holds. The recursion is kept in this information form; W is derived on demand (`learning.derivation`).

Row weights: "none" is u_i = 1; "inverse_frequency" is u_i = N / (K n_k) for a row of domain k, which makes every domain
count alike, averages 1 over the rows (so that a ridge means the same under both) and equals "none" for equal counts.

Does not know where features come from, which domains are published, or how prompts are answered. Exact, not
idempotent: rows observed twice count twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import save

from learning.container import pack, unpack
from learning.derivation import Derivation
from learning.errors import FingerprintMismatch, LearningError, UnseenDomain
from learning.moments import FOLD_ROWS, DomainMoments, Sums, add_scaled
from learning.statistics import Statistics, checked_rows
from learning.symmetric import Float64, add_outer, packed_length

ClassWeighting = Literal["none", "inverse_frequency"]


@dataclass(frozen=True, eq=False)
class RouterWeights:
    """The router as it is served: one column of scores for each domain."""

    domains: tuple[str, ...]
    weight_DK: Float64  # noqa: N815 - shape suffix
    fingerprint: str

    def scores(self, features: ArrayLike) -> Float64:
        """features[n, d] -> float64[n, k]; about 1 for a prompt of the column's domain, about 0 for another."""
        phi_ND = np.asarray(features, dtype=np.float64)
        if phi_ND.ndim != 2 or phi_ND.shape[1] != self.weight_DK.shape[0]:
            raise LearningError(f"scoring features of shape {phi_ND.shape}: expected [n, {self.weight_DK.shape[0]}]")
        scores_NK: Float64 = phi_ND @ self.weight_DK
        return scores_NK

    def restrict(self, domains: Sequence[str]) -> RouterWeights:
        """Only the columns of `domains`, sorted. Raises `UnseenDomain` for one without a column."""
        missing = sorted(set(domains) - set(self.domains))
        if missing:
            raise UnseenDomain(f"restricting the router to {missing}: it has columns for {list(self.domains)}")
        kept = tuple(sorted(set(domains)))
        columns = [self.domains.index(domain) for domain in kept]
        return RouterWeights(kept, np.ascontiguousarray(self.weight_DK[:, columns]), self.fingerprint)

    def to_bytes(self) -> bytes:
        """As safetensors; equal weights give equal bytes."""
        document = {"domains": self.domains, "fingerprint": self.fingerprint}
        return pack({"weight": self.weight_DK}, "router", document)

    @staticmethod
    def from_bytes(content: bytes) -> RouterWeights:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "router")
        return RouterWeights(tuple(document["domains"]), tensors["weight"], str(document["fingerprint"]))


class StreamingRidge:
    """The router's state: exact per-domain sums in float64, and weights derived from them.

    `feature_dim` d; `ridge` > 0 in the unit of squared features; `fingerprint` names the features, and blocks or states
    with another one are refused. Memory: at most 8 bytes x min(n_k d, d(d+1)/2) a domain, and d(d+1)/2 for the total.
    """

    def __init__(
        self,
        feature_dim: int,
        ridge: float = 100.0,
        *,
        class_weighting: ClassWeighting = "none",
        fingerprint: str = "",
    ) -> None:
        if feature_dim < 1:
            raise LearningError(f"feature_dim: expected at least 1, got {feature_dim}")
        if not (math.isfinite(ridge) and ridge > 0):
            raise LearningError(f"ridge: expected a positive number, got {ridge}")
        if class_weighting not in ("none", "inverse_frequency"):
            raise LearningError(f"class_weighting: expected 'none' or 'inverse_frequency', got {class_weighting!r}")
        self.feature_dim = feature_dim
        self.ridge = float(ridge)
        self.class_weighting: ClassWeighting = class_weighting
        self.fingerprint = fingerprint
        self._moments: dict[str, DomainMoments] = {}
        self._gram: Float64 | None = np.zeros(packed_length(feature_dim))
        """Unweighted total, or None when it has to be summed anew from the domains."""
        self._pending: list[Float64] = []
        self._derivation = Derivation(feature_dim, self.ridge)
        self._weights: RouterWeights | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """All domains seen, sorted, so that the order of arrival does not matter."""
        return tuple(sorted(self._moments))

    @property
    def counts(self) -> dict[str, int]:
        """Rows seen of each domain."""
        return {domain: self._moments[domain].count for domain in self.domains}

    @property
    def derivation(self) -> str:
        """How the last weights were derived: none, cholesky, woodbury or reanchored."""
        return self._derivation.method

    def observe(self, features: ArrayLike, domains: Sequence[str]) -> None:
        """Adds rows features[n, d] with their n domains. Raises `LearningError`, leaving the state as it was."""
        rows_ND = checked_rows(features, domains)
        self._check_dim(rows_ND.shape[1], "observing features")
        self._add_rows(rows_ND, domains)

    def absorb(self, statistics: Statistics) -> None:
        """Adds what a worker computed. Raises `FingerprintMismatch` when its features are of another make."""
        self._check_fingerprint(statistics.fingerprint, "absorbing statistics")
        self._check_dim(statistics.feature_dim, "absorbing statistics")
        if statistics.rows_ND is not None:
            self._add_rows(checked_rows(statistics.rows_ND, statistics.row_domains), statistics.row_domains)
        for domain, sums in (statistics.sums or {}).items():
            self._add_sums(domain, sums)

    def merge(self, other: StreamingRidge) -> None:
        """Adds another state's rows to this one, in place. Refuses another fingerprint, dimension or ridge."""
        if other is self:
            raise LearningError("merging routers: expected another router, got the router itself")
        self._check_fingerprint(other.fingerprint, "merging routers")
        self._check_dim(other.feature_dim, "merging routers")
        mine, theirs = (self.ridge, self.class_weighting), (other.ridge, other.class_weighting)
        if mine != theirs:
            raise LearningError(f"merging routers: expected ridge and class weighting {mine}, got {theirs}")
        for domain in other.domains:
            moments = other._moments[domain]
            sums, rows_ND = moments.sums, moments.rows()
            if sums is not None:
                self._add_sums(domain, sums)
            if len(rows_ND):
                self._add_rows(rows_ND, [domain] * len(rows_ND))

    def remove(self, domain: str) -> None:
        """Takes a domain's rows and its column out. The rest is summed anew, so that no rounding residue stays."""
        if domain not in self._moments:
            raise UnseenDomain(f"removing domain {domain!r}: the router knows {list(self.domains)}")
        del self._moments[domain]
        self._gram = None
        self._pending = []
        self._derivation.forget()
        self._weights = None

    def weights(self) -> RouterWeights:
        """Derives the weights of all rows seen. Raises `SolveError` when float64 can't factor A + ridge I."""
        if self._weights is None:
            if not self._moments:
                return RouterWeights((), np.zeros((self.feature_dim, 0)), self.fingerprint)
            weight_DK = self._solve_equal() if self.class_weighting == "none" else self._solve_inverse_frequency()
            self._weights = RouterWeights(self.domains, np.ascontiguousarray(weight_DK), self.fingerprint)
        return self._weights

    def to_tensors(self) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
        """The state as named arrays ("router.<domain>.rows|sum|gram") and one metadata entry "router" (JSON).

        Only the sums are state; total and weights are derived anew from them after a restart.
        """
        tensors: dict[str, NDArray[Any]] = {}
        folded: dict[str, int] = {}
        for domain in self.domains:
            moments = self._moments[domain]
            tensors[f"router.{domain}.rows"] = moments.rows()
            if moments.sums is not None:
                folded[domain] = moments.sums.count
                tensors[f"router.{domain}.sum"] = moments.sums.sum_D
                tensors[f"router.{domain}.gram"] = moments.sums.gram
        document = {
            "feature_dim": self.feature_dim,
            "ridge": self.ridge,
            "class_weighting": self.class_weighting,
            "fingerprint": self.fingerprint,
            "domains": self.domains,
            "folded": folded,
        }
        return tensors, {"router": json.dumps(document, sort_keys=True)}

    @staticmethod
    def from_tensors(
        tensors: Mapping[str, NDArray[Any]],
        metadata: Mapping[str, str],
        *,
        ridge: float | None = None,
        class_weighting: ClassWeighting | None = None,
    ) -> StreamingRidge:
        """The inverse of `to_tensors`; tensors and metadata of others beside it are left alone.

        `ridge` and `class_weighting`, where given, take the place of those written: the sums depend on neither, so the
        router is the one that these would have made from the first row on. Raises `LearningError` on damaged state.
        """
        try:
            document = json.loads(metadata["router"])
            router = StreamingRidge(
                document["feature_dim"],
                document["ridge"] if ridge is None else ridge,
                class_weighting=document["class_weighting"] if class_weighting is None else class_weighting,
                fingerprint=document["fingerprint"],
            )
            for domain in document["domains"]:
                moments = router._domain(domain)
                if domain in document["folded"]:
                    sum_D, gram = tensors[f"router.{domain}.sum"], tensors[f"router.{domain}.gram"]
                    moments.add_sums(Sums(document["folded"][domain], sum_D, gram))
                moments.add_rows(np.array(tensors[f"router.{domain}.rows"], dtype=np.float64, order="C"))
        except (KeyError, ValueError) as error:
            raise LearningError(
                f"restoring the router: expected a 'router' document and its tensors, got {type(error).__name__}: "
                f"{error}; the snapshot is damaged or of another kind"
            ) from error
        router._gram = None
        return router

    def to_bytes(self) -> bytes:
        """As safetensors, bit for bit; equal states give equal bytes."""
        tensors, metadata = self.to_tensors()
        return save(tensors, metadata=metadata)

    @staticmethod
    def from_bytes(content: bytes) -> StreamingRidge:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "router")
        return StreamingRidge.from_tensors(tensors, {"router": json.dumps(document)})

    def _check_dim(self, dim: int, doing: str) -> None:
        if dim != self.feature_dim:
            raise LearningError(f"{doing}: expected feature dimension {self.feature_dim}, got {dim}")

    def _check_fingerprint(self, fingerprint: str, doing: str) -> None:
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"{doing}: expected features with fingerprint {self.fingerprint!r}, got {fingerprint!r}; base, layers, "
                "pooling, template, tokenizer, expansion and standardisation must be the same everywhere"
            )

    def _domain(self, domain: str) -> DomainMoments:
        return self._moments.setdefault(domain, DomainMoments(self.feature_dim))

    def _add_rows(self, rows_ND: Float64, domains: Sequence[str]) -> None:
        present = sorted(set(domains))
        labels = np.asarray(domains)
        for domain in present:
            self._domain(domain).add_rows(rows_ND if len(present) == 1 else rows_ND[labels == domain])
        self._weights = None
        if self.class_weighting == "none" and len(rows_ND):
            self._pending.append(rows_ND)
            if sum(map(len, self._pending)) >= FOLD_ROWS:
                self._fold_pending()

    def _add_sums(self, domain: str, sums: Sums) -> None:
        self._domain(domain).add_sums(sums)
        self._weights = None
        self._derivation.forget()
        if self.class_weighting == "none" and self._gram is not None:
            add_scaled(self._gram, sums.gram, 1.0)

    def _fold_pending(self) -> None:
        if self._pending:
            rows_ND = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
            if self._gram is not None:
                add_outer(self._gram, rows_ND)
            self._derivation.note(rows_ND)
            self._pending = []

    def _total(self) -> Float64:
        self._fold_pending()
        if self._gram is None:
            self._gram = np.zeros(packed_length(self.feature_dim))
            for domain in self.domains:
                self._moments[domain].add_gram_to(self._gram)
        return self._gram

    def _solve_equal(self) -> Float64:
        norms_K = np.sqrt([float(count) for count in self.counts.values()])
        return self._derivation.solve(self._total(), self._targets(np.ones(len(self._moments))), norms_K)

    def _solve_inverse_frequency(self) -> Float64:
        counts_K = np.array([float(count) for count in self.counts.values()])
        share_K = counts_K.sum() / (len(counts_K) * counts_K)
        gram = np.zeros(packed_length(self.feature_dim))
        for domain, share in zip(self.domains, share_K, strict=True):
            self._moments[domain].add_gram_to(gram, float(share))
        self._derivation.forget()  # every weight moves with every count, so no few rows explain the change
        return self._derivation.solve(gram, self._targets(share_K), np.sqrt(counts_K * share_K))

    def _targets(self, share_K: Float64) -> Float64:
        moments = [self._moments[domain] for domain in self.domains]
        return np.stack([share * part.sum_vector() for share, part in zip(share_K, moments, strict=True)], axis=1)
