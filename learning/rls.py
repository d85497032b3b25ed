"""The router: ridge regression from features to labels, streamed.

With features x_i in R^d, one-hot targets y_i over the K columns and row weights u_i, the router is

    W = argmin sum_i u_i ||W^T x_i - y_i||^2 + ridge ||W||^2 = (A + ridge I)^-1 C,
    A = sum_i u_i x_i x_i^T,      C = sum_i u_i x_i y_i^T      (Any-SSR, arXiv 2503.13575, the joint ridge solution)

A and C are sums, so a router fed in any order, in any blocks or on several machines holds what one batch solve over the
same rows holds. The recursion is kept in this information form; W is derived on demand (`learning.derivation`).

Sums and counts are kept label by label ("domain", to those who observe). Which labels make a column is said when
weights are asked for, and so is the head, of which ridge is one: `learning.heads`. Rows under inverse-frequency weights
average 1, so that a ridge means the same under every head.

With a store the rows lie outside memory: `seal` puts what is new of each label there as one generation
(`learning.generations`), so it writes what has changed. `tidy` sums generations in groups, so that a total is had again
from few sums; a removal drops the sums that the label was in and sums their other members anew, because what is
subtracted leaves its rounding behind. A relabelling changes no total, reads nothing and writes nothing.

Does not know where features come from, which labels are published, or how prompts are answered. Exact, not
idempotent: rows observed twice count twice. Whatever raises leaves the same rows summed as before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.container import pack, unpack
from learning.derivation import Derivation
from learning.distance import RelativeDistance
from learning.errors import FingerprintMismatch, LearningError, UnseenDomain
from learning.generations import Generation, GenerationGroup, MomentsStore
from learning.grouping import Serials, add_groups, check_groups, tidied
from learning.heads import BACKGROUND, HEADS, Classes, ClassMeans, Head
from learning.moments import FOLD_ROWS, DomainMoments, Sums
from learning.statistics import Statistics, checked_rows, checked_sums
from learning.symmetric import Float64, add_outer, add_scaled, packed_length


@dataclass(frozen=True, eq=False)
class RouterWeights:
    """The router as it is served: one column of scores for each domain. Raises `LearningError` on unlike shapes."""

    domains: tuple[str, ...]
    """The columns' names, sorted."""
    weight_DK: Float64  # noqa: N815 - shape suffix
    fingerprint: str
    bias_K: Float64 = field(default_factory=lambda: np.zeros(0))  # noqa: N815 - shape suffix
    """Added to every row of scores; zeros where none is given."""
    head: Head = "ridge"

    def __post_init__(self) -> None:
        columns = len(self.domains)
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


class StreamingRidge:
    """The router's state: exact sums of each label in float64, and weights derived from them.

    `feature_dim` d; `ridge` > 0 in the unit of squared features; `fingerprint` names the features, and blocks or states
    with another one are refused. Memory: at most 8 bytes x min(n d, d(d+1)/2) a label of n rows that are not sealed
    in `store`, and d(d+1)/2 for the total. With inverse-frequency weights every solve reads all sealed rows.
    """

    def __init__(
        self,
        feature_dim: int,
        ridge: float = 100.0,
        *,
        head: Head = "ridge",
        fingerprint: str = "",
        store: MomentsStore | None = None,
    ) -> None:
        if feature_dim < 1:
            raise LearningError(f"feature_dim: expected at least 1, got {feature_dim}")
        if not (math.isfinite(ridge) and ridge > 0):
            raise LearningError(f"ridge: expected a positive number, got {ridge}")
        if head not in HEADS:
            raise LearningError(f"head: expected one of {HEADS}, got {head!r}")
        self.feature_dim = feature_dim
        self.ridge = float(ridge)
        self.head: Head = head
        self.fingerprint = fingerprint
        self._store = store
        self._serials = Serials()
        self._moments: dict[str, DomainMoments] = {}
        self._groups: tuple[GenerationGroup, ...] = ()
        self._gram: Float64 | None = np.zeros(packed_length(feature_dim))
        """Unweighted total, or None when it has to be summed anew from the labels."""
        self._pending: list[Float64] = []
        self._derivation = Derivation(feature_dim, self.ridge)
        self._solved: tuple[Classes, Float64] | None = None
        self._weights: tuple[Classes, RouterWeights] | None = None

    @property
    def domains(self) -> tuple[str, ...]:
        """All labels seen, sorted, so that the order of arrival does not matter."""
        return tuple(sorted(self._moments))

    @property
    def counts(self) -> dict[str, int]:
        """Rows seen of each label."""
        return {domain: self._moments[domain].count for domain in self.domains}

    @property
    def derivation(self) -> str:
        """How the last weights were derived: none, cholesky, woodbury or reanchored."""
        return self._derivation.method

    def observe(self, features: ArrayLike, domains: Sequence[str]) -> None:
        """Adds rows features[n, d] with their n labels. Raises `LearningError`, leaving the state as it was."""
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
        mine, theirs = (self.ridge, self.head), (other.ridge, other.head)
        if mine != theirs:
            raise LearningError(f"merging routers: expected ridge and head {mine}, got {theirs}")
        wholes = {label: other._moments[label].whole() for label in other.domains}
        rows = [(label, rows_ND) for label, (rows_ND, _) in wholes.items() if len(rows_ND)]
        self._take(rows, {label: sums for label, (_, sums) in wholes.items() if sums is not None})

    def remove(self, domain: str) -> None:
        """Takes a label's rows out. The rest is summed anew, so that no rounding residue stays.

        Raises `UnseenDomain` for a label without rows.
        """
        self._check_seen(domain, "removing")
        gone = {each.serial for each in self._moments[domain].generations}
        self._moments = {label: part for label, part in self._moments.items() if label != domain}
        self._groups = tuple(group for group in self._groups if not group.members & gone)
        self._gram, self._pending = None, []
        self._derivation.forget()
        self._solved = self._weights = None

    def relabel(self, label: str, into: str) -> None:
        """Moves all rows of `label` to `into`, which may have rows or none; reads and writes none of them.

        Raises `UnseenDomain` for a label without rows, `LearningError` where `into` is no other label.
        """
        self._check_seen(label, "relabelling")
        if not into or into == label:
            raise LearningError(f"relabelling {label!r}: expected another label to move its rows to, got {into!r}")
        moved = self._moments[label]
        if into in self._moments:
            moved = self._moments[into].joined(moved)
        self._moments = {**{name: part for name, part in self._moments.items() if name != label}, into: moved}
        self._solved = self._weights = None

    def copy(self) -> StreamingRidge:
        """A router over the same rows, which it shares: to be changed, and taken in this one's place or dropped.

        What is removed from the copy, relabelled or sealed leaves this one over the rows that it had; rows may be added
        only to the one that goes on.
        """
        self._fold_pending()
        other = StreamingRidge(
            self.feature_dim, self.ridge, head=self.head, fingerprint=self.fingerprint, store=self._store
        )
        other._serials, other._groups, other._gram = self._serials, self._groups, self._gram
        other._moments = dict(self._moments)
        return other

    def without(self, domain: str) -> StreamingRidge:
        """A `copy` that never saw the label. Raises `UnseenDomain` for one without rows."""
        other = self.copy()
        other.remove(domain)
        return other

    def weights(self, columns: Mapping[str, Sequence[str]] | None = None) -> RouterWeights:
        """Derives the head's weights of all rows seen, which are finite; None makes a column of each label.

        `columns` names the labels of each column, of which it has the rows; rows of labels in no column belong to none
        of them. Raises `UnseenDomain` for labels without rows, `LearningError` for columns without labels or with the
        same; `SolveError` when float64 can't factor A + ridge I, or gives weights that are not finite, or can't tell
        what a discriminant's classes spread.
        """
        classes = Classes.of(columns, self.domains)
        if self._weights is None or self._weights[0] != classes:
            self._weights = classes, self._derived(classes)
        return self._weights[1]

    def distance(self, columns: Mapping[str, Sequence[str]] | None = None) -> RelativeDistance:
        """How much nearer a prompt is to a column than to all rows, whatever the head. Raises as `weights`."""
        classes = Classes.of(columns, self.domains)
        places = tuple(place for place, name in enumerate(classes.columns) if name != BACKGROUND)
        return RelativeDistance(self._means(classes), places)

    def inverse(self) -> Float64:
        """(A + ridge I)^-1 of all rows unweighted, packed (`learning.symmetric`): float64[d(d+1)/2]; d^3 flop.

        Raises `SolveError` as `weights`.
        """
        return self._derivation.inverse(self._total())

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
            "head": self.head,
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
        head: Head | None = None,
    ) -> StreamingRidge:
        """The inverse of `seal`, from the same store; reads sum vectors at once, and groups when a total is needed.

        `ridge` and `head`, where given, take the place of those written: the sums depend on neither, so the
        router is the one that these would have made from the first row on. Raises `LearningError` on damaged state.
        """
        try:
            router = StreamingRidge(
                state["feature_dim"],
                state["ridge"] if ridge is None else ridge,
                head=state["head"] if head is None else head,
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
            tensors[f"router.{domain}.rows"], sums = self._moments[domain].whole()
            if sums is not None:
                folded[domain] = sums.count
                tensors[f"router.{domain}.sum"], tensors[f"router.{domain}.gram"] = sums.sum_D, sums.gram
        document = {
            "feature_dim": self.feature_dim,
            "ridge": self.ridge,
            "head": self.head,
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
                head=document["head"],
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

    def _check_seen(self, label: str, doing: str) -> None:
        if label not in self._moments:
            raise UnseenDomain(f"{doing} domain {label!r}: the router knows {list(self.domains)}")

    def _domain(self, domain: str) -> DomainMoments:
        return self._moments.setdefault(domain, DomainMoments(self.feature_dim, self._store))

    def _take(self, rows: Sequence[tuple[str, Float64]], sums: Mapping[str, Sums]) -> None:
        """Adds rows and sums by domain, `sums` with arrays of their own; what may fail comes before the first is in."""
        total = sum(len(rows_ND) for _, rows_ND in rows)
        if sum(map(len, self._pending)) + total >= FOLD_ROWS:
            self._fold_pending()
        for domain in {*sums, *(domain for domain, _ in rows)} & set(self._moments):
            self._moments[domain].make_room()
        for domain, part in sums.items():
            if self._gram is not None:
                add_scaled(self._gram, part.gram, 1.0)
            self._domain(domain).add_sums(part)
        for domain, rows_ND in rows:
            self._domain(domain).add_rows(rows_ND)
        self._pending.extend(rows_ND for _, rows_ND in rows)
        if sums:
            self._derivation.forget()
        self._solved = self._weights = None

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

    def _derived(self, classes: Classes) -> RouterWeights:
        columns = len(classes.columns)
        weight_DK, bias_K = np.zeros((self.feature_dim, columns)), np.zeros(columns)
        if columns and self.head == "lda":
            weight_DK, bias_K = self._means(classes).discriminant(columns)
        elif columns:
            solve = self._ridge if self.head == "ridge" else self._inverse_frequency
            weight_DK = np.ascontiguousarray(solve(classes)[:, :columns])
        return RouterWeights(classes.columns, weight_DK, self.fingerprint, bias_K, self.head)

    def _means(self, classes: Classes) -> ClassMeans:
        return ClassMeans.of(self._sums(classes), self._ridge(classes), classes.counts(self.counts))

    def _ridge(self, classes: Classes) -> Float64:
        """R S, of all classes; the last is kept."""
        if self._solved is None or self._solved[0] != classes:
            norms_C = np.sqrt(classes.counts(self.counts))
            self._solved = classes, self._derivation.solve(self._total(), self._sums(classes), norms_C)
        return self._solved[1]

    def _inverse_frequency(self, classes: Classes) -> Float64:
        counts_C = classes.counts(self.counts)
        share_C = counts_C.sum() / (len(counts_C) * counts_C)
        gram = np.zeros(packed_length(self.feature_dim))
        for labels, share in zip(classes.labels, share_C, strict=True):
            for label in labels:
                self._moments[label].add_gram_to(gram, float(share))
        # Every weight moves with every count, so that nothing kept explains the change.
        derivation = Derivation(self.feature_dim, self.ridge)
        weight_DC = derivation.solve(gram, self._sums(classes) * share_C, np.sqrt(counts_C * share_C))
        self._derivation.method = derivation.method
        return weight_DC

    def _sums(self, classes: Classes) -> Float64:
        sums_DC = np.empty((self.feature_dim, len(classes.labels)), order="F")
        for place, labels in enumerate(classes.labels):
            sums_DC[:, place] = sum(self._moments[label].sum_vector() for label in labels)
        return sums_DC


def _by_domain(rows_ND: Float64, domains: Sequence[str]) -> list[tuple[str, Float64]]:
    present = sorted(set(domains))
    if len(present) == 1:
        return [(present[0], rows_ND)]
    labels = np.asarray(domains)
    return [(domain, rows_ND[labels == domain]) for domain in present]
