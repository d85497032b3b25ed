"""Sparse experts over one vector of weights: which weights each domain chose, and what they are worth to whom.

With masks M_t over the N weights, a weight that one domain chose is unique to it, one that two chose is shared:

    S = { p : p in M_i and M_j, i != j }      U_t = M_t - S      a domain answers with W_base outside M_t

A unique weight that a later domain chooses is promoted: its value becomes the shared one, and the domain that it was
unique to answers with it as it changes. So each chosen weight has one value, whoever owns it; only where all is unique
has each domain its own. Stored: the values of chosen weights, the masks as bits or as int32 indices, whichever is less,
and how much each chosen weight is needed. Knows no model and no training.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Split = Literal["on_share", "all_unique", "all_shared"]
_CHOSEN, _VALUE, _NEED, _MASK, _OWN = "chosen", "value", "need", "mask/", "own/"


class SparseExperts:
    """Of N weights that are `base_N` where nobody changed them; `masked` as in `SparseSetaOptions`."""

    def __init__(self, base_N: Tensor, split: Split, masked: bool) -> None:
        self._base_N = base_N
        self._split = split
        self._masked = masked
        self.value_N = base_N.clone()
        """As the last domain that trained each weight left it."""
        self.need_N = torch.zeros_like(base_N)
        self.masks: dict[str, Tensor] = {}
        """bool[n] of each domain."""
        self._own: dict[str, Tensor] = {}
        """Where all is unique: each domain's values at its mask, in order."""

    @property
    def chosen_N(self) -> Tensor:  # noqa: N802 - shape suffix
        """bool[n]: what any domain chose."""
        return self._uses_N() >= 1

    @property
    def shared_N(self) -> Tensor:  # noqa: N802 - shape suffix
        """bool[n]: what several domains answer with."""
        if self._split == "all_unique":
            return torch.zeros_like(self._base_N, dtype=torch.bool)
        return self._uses_N() >= (1 if self._split == "all_shared" else 2)

    def unique_N(self, domain: str) -> Tensor:  # noqa: N802 - shape suffix
        """bool[n]: what it alone answers with."""
        return self.masks[domain] & ~self.shared_N

    def used_by(self, mask_N: Tensor) -> Tensor:
        """bool[n]: what a domain of that mask trains and answers with, if it comes next."""
        uses_N = self._uses_N()
        if self._split == "all_shared":
            return mask_N | (uses_N >= 1)
        if self._split == "on_share" and not self._masked:
            return mask_N | (uses_N >= 2)
        return mask_N

    def held_by(self, used_N: Tensor) -> Tensor:
        """float[n]: how much earlier domains need each weight that a next one changes for them, too; else 0."""
        if self._split == "all_unique":
            return torch.zeros_like(self.need_N)
        return torch.where(used_N, self.need_N, 0.0)

    def start(self, used_N: Tensor, warm: bool) -> Tensor:
        """float[n]: the weights that a next domain begins with."""
        return torch.where(used_N, self.value_N, self._base_N) if warm else self._base_N.clone()

    def add(self, domain: str, mask_N: Tensor, trained_N: Tensor, need_N: Tensor) -> None:
        """Takes a domain's mask, the weights that its training left, and how much it needs each of them."""
        used_N = self.used_by(mask_N)
        self.value_N = torch.where(used_N, trained_N, self.value_N)
        self.need_N = self.need_N + torch.where(used_N, need_N, 0.0)
        self.masks[domain] = mask_N
        if self._split == "all_unique":
            self._own[domain] = trained_N[mask_N]

    def weights_of(self, domain: str) -> Tensor:
        """float[n]: the weights that answer for it; the base's for one that was not added."""
        if self._split == "all_shared":
            return torch.where(self.chosen_N, self.value_N, self._base_N)
        if domain not in self.masks:
            return self._base_N
        mask_N = self.masks[domain]
        if self._split == "all_unique":
            return self._base_N.masked_scatter(mask_N, self._own[domain])
        return torch.where(mask_N if self._masked else mask_N | self.shared_N, self.value_N, self._base_N)

    def packed(self) -> dict[str, Tensor]:
        """All of it, as it is stored; each domain's mask among chosen weights has its place for a name."""
        chosen_N = self.chosen_N
        kept = {_CHOSEN: pack(chosen_N)}
        if self._split != "all_unique":
            kept |= {_VALUE: self.value_N[chosen_N], _NEED: self.need_N[chosen_N]}
        for place, mask_N in enumerate(self.masks.values()):
            kept[f"{_MASK}{place}"] = pack(mask_N[chosen_N])
        for place, values in enumerate(self._own.values()):
            kept[f"{_OWN}{place}"] = values
        return kept

    def unpack(self, kept: dict[str, Tensor], domains: list[str]) -> None:
        """The inverse of `packed`, of these domains, in a new object of the same base and form."""
        size = len(self._base_N)
        chosen_N = unpack(kept[_CHOSEN], size)
        for place, domain in enumerate(domains):
            mask_N = torch.zeros(size, dtype=torch.bool)
            self.masks[domain] = mask_N.masked_scatter(chosen_N, unpack(kept[f"{_MASK}{place}"], int(chosen_N.sum())))
            if self._split == "all_unique":
                self._own[domain] = kept[f"{_OWN}{place}"]
                self.value_N = self.value_N.masked_scatter(self.masks[domain], self._own[domain])
        if self._split != "all_unique":
            self.value_N = self._base_N.masked_scatter(chosen_N, kept[_VALUE])
            self.need_N = self.need_N.masked_scatter(chosen_N, kept[_NEED])

    def _uses_N(self) -> Tensor:  # noqa: N802 - shape suffix
        uses_N = torch.zeros_like(self._base_N, dtype=torch.int32)
        for mask_N in self.masks.values():
            uses_N += mask_N
        return uses_N


def pack(mask_N: Tensor) -> Tensor:
    """A mask as uint8[n / 8] bits, or as int32 indices of what is in it, whichever takes fewer bytes."""
    bits = np.packbits(mask_N.numpy())
    indices = torch.nonzero(mask_N).flatten().to(torch.int32)
    return indices if indices.nbytes < bits.nbytes else torch.from_numpy(bits)


def unpack(packed: Tensor, size: int) -> Tensor:
    """The inverse of `pack`: bool[size]."""
    if packed.dtype == torch.uint8:
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=size)).bool()
    mask_N = torch.zeros(size, dtype=torch.bool)
    mask_N[packed.long()] = True
    return mask_N
