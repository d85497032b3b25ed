"""The router: ridge regression from features to domains, streamed.

With features x_i in R^d, one-hot targets y_i over the K domains and row weights u_i, the router is

    W = argmin sum_i u_i ||W^T x_i - y_i||^2 + ridge ||W||^2 = (A + ridge I)^-1 C,
    A = sum_i u_i x_i x_i^T,      C = sum_i u_i x_i y_i^T      (Any-SSR, arXiv 2503.13575, the joint ridge solution)

A and C are sums, so a router fed in any order, in any blocks or on several machines holds what one batch solve over the
same rows holds. The recursion is kept in this information form; W is derived on demand (`learning.derivation`).

Row weights: "none" is u_i = 1; "inverse_frequency" is u_i = N / (K n_k) for a row of domain k, which makes every domain
count alike, averages 1 over the rows (so that a ridge means the same under both) and equals "none" for equal counts.

With a store the rows lie outside memory: `seal` puts what is new of each domain there as one generation
(`learning.generations`), so it writes what has changed. `tidy` sums generations in groups, so that a total is had again
from few sums; a removal drops the sums that the domain was in and sums their other members anew, because what is
subtracted leaves its rounding behind.

Does not know where features come from, which domains are published, or how prompts are answered. Exact, not
idempotent: rows observed twice count twice. Whatever raises leaves the same rows summed as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.container import pack, unpack
from learning.derivation import Derivation
from learning.errors import FingerprintMismatch, LearningError, UnseenDomain
from learning.generations import Generation, GenerationGroup, MomentsStore
from learning.grouping import Serials, add_groups, check_groups, tidied
from learning.moments import FOLD_ROWS, DomainMoments, Sums
from learning.statistics import Statistics, checked_rows, checked_sums
from learning.symmetric import Float64, add_outer, add_scaled, packed_length

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
        if kept == self.domains:
            return self
        places = {domain: column for column, domain in enumerate(self.domains)}
        columns = [places[domain] for domain in kept]
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
    with another one are refused. Memory: at most 8 bytes x min(n_k d, d(d+1)/2) a domain, of rows that are not sealed
    in `store`, and d(d+1)/2 for the total. With inverse-frequency weights every solve reads all sealed rows.
    """

    def __init__(
        self,
        feature_dim: int,
        ridge: float = 100.0,
        *,
        class_weighting: ClassWeighting = "none",
        fingerprint: str = "",
        store: MomentsStore | None = None,
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
        self._store = store
        self._serials = Serials()
        self._moments: dict[str, DomainMoments] = {}
        self._groups: tuple[GenerationGroup, ...] = ()
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
        self._take(_by_domain(rows_ND, domains), {})

    def absorb(self, statistics: Statistics) -> None:
        """Adds what a worker computed.

        Raises `FingerprintMismatch` when its features are of another make, and `LearningError` when they, or their
        sums, are not usable; the state is then as it was.
        """
        self._check_fingerprint(statistics.fingerprint, "absorbing statistics")
        self._check_dim(statistics.feature_dim, "absorbing statistics")
        rows: list[tuple[str, Float64]] = []
        if statistics.rows_ND is not None:
            rows = _by_domain(checked_rows(statistics.rows_ND, statistics.row_domains), statistics.row_domains)
        self._take(rows, checked_sums(statistics.sums or {}, self.feature_dim))

    def merge(self, other: StreamingRidge) -> None:
        """Adds another state's rows to this one, in place. Refuses another fingerprint, dimension or ridge."""
        if other is self:
            raise LearningError("merging routers: expected another router, got the router itself")
        self._check_fingerprint(other.fingerprint, "merging routers")
        self._check_dim(other.feature_dim, "merging routers")
        mine, theirs = (self.ridge, self.class_weighting), (other.ridge, other.class_weighting)
        if mine != theirs:
            raise LearningError(f"merging routers: expected ridge and class weighting {mine}, got {theirs}")
        rows: list[tuple[str, Float64]] = []
        sums: dict[str, Sums] = {}
        for domain in other.domains:
            for part in other._moments[domain].parts():
                if not isinstance(part, Sums):
                    rows.append((domain, part))
                elif domain in sums:
                    sums[domain] = _added(sums[domain], part)
                else:
                    sums[domain] = part.copy()
        self._take(rows, sums)

    def remove(self, domain: str) -> None:
        """Takes a domain's rows and its column out. The rest is summed anew, so that no rounding residue stays."""
        moments, groups = self._without(domain)
        self._moments, self._groups = moments, groups
        self._gram, self._pending = None, []
        self._derivation.forget()
        self._weights = None

    def without(self, domain: str) -> StreamingRidge:
        """The router that never saw the domain; this one stays as it is, for as long as only one of them goes on."""
        moments, groups = self._without(domain)
        other = self._like(self.ridge, self.class_weighting)
        other._serials, other._moments, other._groups, other._gram = self._serials, moments, groups, None
        return other

    def weights(self) -> RouterWeights:
        """Derives the weights of all rows seen, which are finite.

        Raises `SolveError` when float64 can't factor A + ridge I, or gives weights that are not finite.
        """
        if self._weights is None:
            if not self._moments:
                return RouterWeights((), np.zeros((self.feature_dim, 0)), self.fingerprint)
            weight_DK = self._solve_equal() if self.class_weighting == "none" else self._solve_inverse_frequency()
            self._weights = RouterWeights(self.domains, np.ascontiguousarray(weight_DK), self.fingerprint)
        return self._weights

    # -- in a store ---------------------------------------------------------------------------------------------------

    def seal(self) -> dict[str, Any]:
        """Puts what is new into the store, and returns a JSON-able state that names everything; frees the rows' memory.

        Raises `LearningError` without a store.
        """
        self._fold_pending()
        for domain in self.domains:
            if self._moments[domain].open_count:
                self._moments[domain].seal(self._serials.next())
        return {
            "feature_dim": self.feature_dim,
            "ridge": self.ridge,
            "class_weighting": self.class_weighting,
            "fingerprint": self.fingerprint,
            "serial": self._serials.last,
            "domains": {d: [each.to_list() for each in self._moments[d].generations] for d in self.domains},
            "groups": [[group.name, sorted(group.members)] for group in self._groups],
        }

    @staticmethod
    def restore(
        state: Mapping[str, Any],
        store: MomentsStore,
        *,
        ridge: float | None = None,
        class_weighting: ClassWeighting | None = None,
    ) -> StreamingRidge:
        """The inverse of `seal`, from the same store; reads sum vectors at once, and groups when a total is needed.

        `ridge` and `class_weighting`, where given, take the place of those written: the sums depend on neither, so the
        router is the one that these would have made from the first row on. Raises `LearningError` on damaged state.
        """
        try:
            router = StreamingRidge(
                state["feature_dim"],
                state["ridge"] if ridge is None else ridge,
                class_weighting=state["class_weighting"] if class_weighting is None else class_weighting,
                fingerprint=state["fingerprint"],
                store=store,
            )
            router._serials = Serials(state["serial"])
            for domain, entries in state["domains"].items():
                router._domain(domain).restore(tuple(Generation.from_list(entry) for entry in entries))
            router._groups = tuple(GenerationGroup(name, frozenset(members)) for name, members in state["groups"])
            sealed = (each for moments in router._moments.values() for each in moments.generations)
            check_groups(sealed, router._groups, router._serials.last)
        except (KeyError, ValueError, TypeError) as error:
            raise LearningError(
                f"restoring the router: expected a state that `seal` returned, got {type(error).__name__}: {error}; "
                "the snapshot is damaged or of another kind"
            ) from error
        router._gram = None
        return router

    def segments(self) -> frozenset[str]:
        """Names in the store of everything that a state sealed now refers to."""
        sealed = (each for moments in self._moments.values() for each in moments.generations)
        return frozenset(name for each in sealed for name in each.names) | {group.name for group in self._groups}

    def tidy(self) -> bool:
        """Joins what lies in the store in many pieces; tells whether anything was done. The sums stay the same.

        Reads and writes much at times, a small share of what was sealed in the long run. What fails of it leaves this
        router, and the state that the next `seal` returns, as if it had not been tried.
        """
        if self._store is None:
            return False
        serials = Serials(self._serials.last)
        found = tidied(self._moments, self._groups, self.feature_dim, self._store, serials)
        changed = bool(found.generations) or found.groups != self._groups
        for domain, generations in found.generations.items():
            self._moments[domain].regroup(generations)
        self._groups, self._serials.last = found.groups, serials.last
        return changed

    # -- as bytes -----------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """As safetensors, whole, whatever lies in a store; equal states give equal bytes."""
        tensors: dict[str, NDArray[Any]] = {}
        folded: dict[str, int] = {}
        for domain in self.domains:
            rows: list[Float64] = [np.empty((0, self.feature_dim))]
            sums: Sums | None = None
            for part in self._moments[domain].parts():
                if isinstance(part, Sums):
                    sums = part if sums is None else _added(sums.copy(), part)
                else:
                    rows.append(part)
            tensors[f"router.{domain}.rows"] = np.concatenate(rows)
            if sums is not None:
                folded[domain] = sums.count
                tensors[f"router.{domain}.sum"], tensors[f"router.{domain}.gram"] = sums.sum_D, sums.gram
        document = {
            "feature_dim": self.feature_dim,
            "ridge": self.ridge,
            "class_weighting": self.class_weighting,
            "fingerprint": self.fingerprint,
            "domains": self.domains,
            "folded": folded,
        }
        return pack(tensors, "router", document)

    @staticmethod
    def from_bytes(content: bytes) -> StreamingRidge:
        """The inverse of `to_bytes`, without a store. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "router")
        try:
            router = StreamingRidge(
                document["feature_dim"],
                document["ridge"],
                class_weighting=document["class_weighting"],
                fingerprint=document["fingerprint"],
            )
            for domain in document["domains"]:
                moments = router._domain(domain)
                if domain in document["folded"]:
                    sum_D, gram = tensors[f"router.{domain}.sum"], tensors[f"router.{domain}.gram"]
                    moments.add_sums(Sums(document["folded"][domain], sum_D.copy(), gram.copy()))
                moments.add_rows(np.array(tensors[f"router.{domain}.rows"], dtype=np.float64, order="C"))
        except (KeyError, ValueError, TypeError) as error:
            raise LearningError(
                f"restoring the router: expected a 'router' document and its tensors, got {type(error).__name__}: "
                f"{error}; the bytes are damaged or of another kind"
            ) from error
        router._gram = None
        return router

    # -- inside -------------------------------------------------------------------------------------------------------

    def _check_dim(self, dim: int, doing: str) -> None:
        if dim != self.feature_dim:
            raise LearningError(f"{doing}: expected feature dimension {self.feature_dim}, got {dim}")

    def _check_fingerprint(self, fingerprint: str, doing: str) -> None:
        if fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"{doing}: expected features with fingerprint {self.fingerprint!r}, got {fingerprint!r}; base, layers, "
                "pooling, template, tokenizer, expansion and standardisation must be the same everywhere"
            )

    def _like(self, ridge: float, class_weighting: ClassWeighting) -> StreamingRidge:
        return StreamingRidge(
            self.feature_dim,
            ridge,
            class_weighting=class_weighting,
            fingerprint=self.fingerprint,
            store=self._store,
        )

    def _domain(self, domain: str) -> DomainMoments:
        return self._moments.setdefault(domain, DomainMoments(self.feature_dim, self._store))

    def _without(self, domain: str) -> tuple[dict[str, DomainMoments], tuple[GenerationGroup, ...]]:
        """The other domains, and the groups that the domain is in no part of."""
        if domain not in self._moments:
            raise UnseenDomain(f"removing domain {domain!r}: the router knows {list(self.domains)}")
        gone = {each.serial for each in self._moments[domain].generations}
        moments = {name: part for name, part in self._moments.items() if name != domain}
        return moments, tuple(group for group in self._groups if not group.members & gone)

    def _take(self, rows: Sequence[tuple[str, Float64]], sums: Mapping[str, Sums]) -> None:
        """Adds rows and sums by domain, `sums` with arrays of their own; what may fail comes before the first is in."""
        total = sum(len(rows_ND) for _, rows_ND in rows)
        if sum(map(len, self._pending)) + total >= FOLD_ROWS:
            self._fold_pending()
        for domain in {*sums, *(domain for domain, _ in rows)} & set(self._moments):
            self._moments[domain].make_room()
        counted = self.class_weighting == "none"
        for domain, part in sums.items():
            if counted and self._gram is not None:
                add_scaled(self._gram, part.gram, 1.0)
            self._domain(domain).add_sums(part)
        for domain, rows_ND in rows:
            self._domain(domain).add_rows(rows_ND)
        if counted:
            self._pending.extend(rows_ND for _, rows_ND in rows)
        if sums:
            self._derivation.forget()
        self._weights = None

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
            gram = np.zeros(packed_length(self.feature_dim))
            grouped = frozenset(serial for group in self._groups for serial in group.members)
            if self._store is not None:
                add_groups(gram, self._groups, self._store)
            for domain in self.domains:
                self._moments[domain].add_gram_to(gram, without=grouped)
            self._gram = gram
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
        targets_DK = np.empty((self.feature_dim, len(self._moments)), order="F")
        for column, (share, domain) in enumerate(zip(share_K, self.domains, strict=True)):
            np.multiply(share, self._moments[domain].sum_vector(), out=targets_DK[:, column])
        return targets_DK


def _by_domain(rows_ND: Float64, domains: Sequence[str]) -> list[tuple[str, Float64]]:
    present = sorted(set(domains))
    if len(present) == 1:
        return [(present[0], rows_ND)]
    labels = np.asarray(domains)
    return [(domain, rows_ND[labels == domain]) for domain in present]


def _added(sums: Sums, others: Sums) -> Sums:
    """Both together, in the arrays of the first."""
    add_scaled(sums.gram, others.gram, 1.0)
    return Sums(sums.count + others.count, sums.sum_D + others.sum_D, sums.gram)
