"""The heads and the distances as they are defined: all rows at once, d x d matrices, none of the code under test."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


class Plain:
    """All rows, grouped: `parts` are the rows of each class, those of the K columns first."""

    def __init__(self, rows: Rows, labels: Sequence[str], columns: Mapping[str, Sequence[str]], ridge: float) -> None:
        self.rows, self.ridge, self.columns = rows, ridge, len(columns)
        named = [set(columns[name]) for name in sorted(columns)]
        rest = [{label} for label in sorted(set(labels).difference(*named))]
        of_label = np.array(labels)
        self.members = np.array([np.isin(of_label, sorted(part)) for part in (*named, *rest)])
        self.parts = [rows[mine] for mine in self.members]

    def ridge_scores(self, queries: Rows, *, equal: bool) -> Rows:
        """By orthogonal factorisation; `equal` is whether a row counts 1 or its class."""
        sizes = self.members.sum(axis=1)
        share = np.ones(len(self.rows)) if equal else len(self.rows) / (len(sizes) * (self.members.T @ sizes))
        root = np.sqrt(share)[:, None]
        dim = self.rows.shape[1]
        augmented = np.vstack([self.rows * root, np.sqrt(self.ridge) * np.eye(dim)])
        targets = np.vstack([self.members[: self.columns].T * root, np.zeros((dim, self.columns))])
        return queries @ np.linalg.lstsq(augmented, targets, rcond=None)[0]

    def covariance(self, parts: Sequence[Rows]) -> Rows:
        """Of rows about the mean of their part, shrunk by the ridge; the divisor is the number of rows."""
        scatter = sum((part - part.mean(axis=0)).T @ (part - part.mean(axis=0)) for part in parts)
        return (scatter + self.ridge * np.eye(self.rows.shape[1])) / len(self.rows)

    def scores(self, head: str, queries: Rows) -> Rows:
        if head != "lda":
            return self.ridge_scores(queries, equal=head == "ridge")
        within = self.covariance(self.parts)
        whole = self.distances(queries, self.rows.mean(axis=0), within)
        nearer = [self.distances(queries, part.mean(axis=0), within) for part in self.parts[: self.columns]]
        return -(np.array(nearer).T - whole[:, None]) / 2

    def nearness(self, queries: Rows) -> Rows:
        """Minus the relative Mahalanobis distance to the nearest column."""
        within, about = self.covariance(self.parts), self.covariance([self.rows])
        near = np.min([self.distances(queries, p.mean(axis=0), within) for p in self.parts[: self.columns]], axis=0)
        return -(near - self.distances(queries, self.rows.mean(axis=0), about))

    def leverage(self, queries: Rows) -> Rows:
        regularised = self.rows.T @ self.rows + self.ridge * np.eye(self.rows.shape[1])
        return np.einsum("nd,dn->n", queries, np.linalg.solve(regularised, queries.T))

    @staticmethod
    def distances(queries: Rows, mean: Rows, covariance: Rows) -> Rows:
        root = np.linalg.cholesky(covariance)
        return np.square(np.linalg.solve(root, (queries - mean).T)).sum(axis=0)
