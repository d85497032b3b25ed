"""One domain's low-rank subspace, as Any-SSR has it (arXiv 2503.13575): domains can't disturb each other. Does not know
what it trains on, nor what becomes of it.
"""

from __future__ import annotations

from learning.low_rank import LowRankLearner


class LoraLearner(LowRankLearner):
    """One adapter a domain, or several where it has segments; see `LowRankLearner`."""

    name = "lora"
