"""The replicas as arrays: which adapters each holds, how many tokens each still owes, and how long a request takes.

Requests are taken in ticks. A replica generates at one rate for all its requests together; one that asks for an adapter
that is not in its replica's memory waits until it is read, and the one least recently used goes for it. Knows nothing
of events: who reads the adapters is the model's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.costs import Assumptions, MeasuredCosts

_HEADROOM = 1.5
"""A domain's homes could bear so many times the requests that it gets, if they served nothing else."""


@dataclass(frozen=True, eq=False)
class Homes:
    """Which replicas serve a domain: `counts` of them from `first` on, around the circle of all."""

    share_K: NDArray[np.float64]  # noqa: N815 - shape suffix
    """Of all requests, by domain: Zipf's law."""
    first_K: NDArray[np.int64]  # noqa: N815 - shape suffix
    count_K: NDArray[np.int64]  # noqa: N815 - shape suffix
    replicas: int

    @staticmethod
    def of(domains: int, replicas: int, least: int, zipf: float, random: np.random.Generator) -> Homes:
        """`least` homes of each domain and more by its share; 0: all replicas are."""
        share_K: NDArray[np.float64] = np.arange(1, domains + 1, dtype=np.float64) ** -zipf
        share_K /= share_K.sum()
        if not least:
            return Homes(share_K, np.zeros(domains, np.int64), np.full(domains, replicas), replicas)
        count_K = np.clip(np.ceil(_HEADROOM * share_K * replicas), least, replicas).astype(np.int64)
        # One after another around the circle, in any order, so that all replicas are homes of about as many.
        order = random.permutation(domains)
        first_K = np.empty(domains, np.int64)
        first_K[order] = (np.cumsum(count_K[order]) - count_K[order]) % replicas
        return Homes(share_K, first_K, count_K, replicas)

    def holds(self, domain: int, replica: int) -> bool:
        """Tell whether the replica is one of the domain's."""
        return bool((replica - self.first_K[domain]) % self.replicas < self.count_K[domain])

    def choose(self, domains_N: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """A replica for a request to each of these domains."""
        steps_N = (random.random(len(domains_N)) * self.count_K[domains_N]).astype(np.int64)
        return (self.first_K[domains_N] + steps_N) % self.replicas


class SimulatedReplicas:
    """All replicas of a run; at first each holds the most asked for of the domains that are its own."""

    def __init__(self, homes: Homes, costs: MeasuredCosts, assumed: Assumptions, random: np.random.Generator) -> None:
        self.homes, self._costs, self._assumed, self._random = homes, costs, assumed, random
        domains, replicas = len(homes.share_K), homes.replicas
        behind_RK = (np.arange(replicas)[:, None] - homes.first_K) % replicas
        own_RK = behind_RK < homes.count_K
        self._held_RK = own_RK & (own_RK.cumsum(axis=1) <= assumed.adapter_slots)
        self._used_RK = np.broadcast_to(-np.arange(domains, dtype=np.float64), (replicas, domains)).copy()
        self._owed_R = np.zeros(replicas)
        self._generated = 0.0
        self.loads = 0

    def take(self, requests_s: float, tick_s: float, now: float) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """One tick's requests: seconds of each but for reading, which of them have to wait for it, adapters to read."""
        assumed, homes, replicas = self._assumed, self.homes, self.homes.replicas
        domains_N = self._random.choice(len(homes.share_K), self._random.poisson(requests_s * tick_s), p=homes.share_K)
        chosen_N = homes.choose(domains_N, self._random)
        generated_R = np.minimum(self._owed_R, assumed.tokens_s * tick_s)
        self._generated += float(generated_R.sum())
        self._owed_R += np.bincount(chosen_N, minlength=replicas) * assumed.answer_tokens - generated_R
        seconds_N = (
            assumed.feature_s
            + self._costs.decide_s
            + self._owed_R[chosen_N] / assumed.tokens_s
            + assumed.answer_tokens * assumed.token_s
        )
        missing_N = ~self._held_RK[chosen_N, domains_N]
        loads = len(set(zip(chosen_N[missing_N].tolist(), domains_N[missing_N].tolist(), strict=True)))
        self.loads += loads
        self._hold(chosen_N, domains_N, now)
        return seconds_N, missing_N, loads

    def renew(self, domains: Iterable[int], now: float) -> None:
        """Hold the domains' new versions wherever those are served."""
        for domain in domains:
            places = (self.homes.first_K[domain] + np.arange(self.homes.count_K[domain])) % self.homes.replicas
            self._hold(places, np.full(len(places), domain), now)

    def figures(self, seconds: float) -> dict[str, Any]:
        """As a station's: of all the tokens that they could have generated, and requests that are owed tokens."""
        could = self.homes.replicas * self._assumed.tokens_s * seconds
        return {
            "utilisation": self._generated / could,
            "servers": self.homes.replicas,
            "waiting_at_the_end": round(float(self._owed_R.sum()) / self._assumed.answer_tokens),
            "adapters_read_for_requests": self.loads,
        }

    def _hold(self, replicas_N: NDArray[np.int64], domains_N: NDArray[np.int64], now: float) -> None:
        self._held_RK[replicas_N, domains_N] = True
        self._used_RK[replicas_N, domains_N] = now
        slots = self._assumed.adapter_slots
        touched = np.unique(replicas_N)
        for place in touched[self._held_RK[touched].sum(axis=1) > slots]:
            held = np.flatnonzero(self._held_RK[place])
            oldest = np.argsort(self._used_RK[place, held], kind="stable")[: len(held) - slots]
            self._held_RK[place, held[oldest]] = False
