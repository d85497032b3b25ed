"""Of recent rows of one domain: how many were routed right, and where the others went. Older rows fade."""

from __future__ import annotations

from dataclasses import dataclass, field

_MEMORY = 0.998
"""What a row weighs after another one: the last 500 or so count."""
_FORGOTTEN, _LARGE = 0.01, 1e6
_TOLD = 8


@dataclass
class Share:
    """Of recent rows of one domain: the share that was routed right, and how many there were since the start."""

    right: float = 0.0
    weight: float = 0.0
    rows: int = 0
    chosen: dict[str, float] = field(default_factory=dict)
    """By domain, the rows that would have gone there, in units of `unit`."""
    unit: float = 1.0
    """What the last row counts in `chosen`: so that those before it fade without being touched."""

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.right / self.weight

    def note(self, domain: str, is_right: bool) -> None:
        """Count a row that would have gone to `domain`."""
        self.right = self.right * _MEMORY + is_right
        self.weight = self.weight * _MEMORY + 1.0
        self.rows += 1
        self.unit /= _MEMORY
        self.chosen[domain] = self.chosen.get(domain, 0.0) + self.unit
        if self.unit > _LARGE:
            scaled = {each: weight / self.unit for each, weight in self.chosen.items()}
            self.chosen = {each: weight for each, weight in scaled.items() if weight > _FORGOTTEN}
            self.unit = 1.0

    def routed_to(self) -> dict[str, float]:
        """Return the shares, 0 to 1, of where most of them would have gone, the largest first."""
        largest = sorted(self.chosen.items(), key=lambda each: -each[1])[:_TOLD]
        return {domain: weight / self.unit / self.weight for domain, weight in largest}
