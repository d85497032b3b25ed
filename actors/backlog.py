"""What waits of a domain: what the ledger holds of it, and what the spools say beside. It decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.observation import OpenDomain, Watermarks
from actors.spools import Spools


@dataclass(frozen=True)
class DomainBacklog:
    """What waits of one domain, and how long it is quiet."""

    ledger: OpenDomain = field(default_factory=OpenDomain)
    unobserved: int = 0
    """Rows in spools that the router has not counted; they are in none of the ledger's counts."""
    quiet_seconds: float = 0.0
    """Seconds since its last row or marker, on the clocks of the workers; 0 while a row of it waits."""

    @property
    def is_trainable(self) -> bool:
        """Whether a version could be made that was not tried yet."""
        return self.ledger.seal is None and self.ledger.train > 0 and self.ledger.fresh > 0

    @property
    def only_waits(self) -> bool:
        """Whether its counted rows wait for others to be trained with: all were tried, or all are held out."""
        counted = self.ledger.train + self.ledger.held_out
        return self.ledger.seal is None and counted > 0 and not self.is_trainable


def backlogs_of(ledger: Mapping[str, OpenDomain], spools: Spools, observed: Watermarks) -> dict[str, DomainBacklog]:
    """Return what waits of each domain that the ledger or a spool has rows of."""
    unobserved = spools.unobserved()
    return {
        domain: DomainBacklog(
            ledger.get(domain, OpenDomain()), unobserved.get(domain, 0), spools.quiet_seconds(domain, observed)
        )
        for domain in {*ledger, *unobserved}
    }
