"""Views of the ledger, as a router would give them."""

from __future__ import annotations

from collections.abc import Mapping

from actors.observation import LedgerView, Watermarks, WriterRun

LINEAGE = "f" * 32


def view(
    snapshot: int = 0,
    *,
    runs: tuple[tuple[str, int], ...] = (("first", 1),),
    run: str = "",
    lineage: str = LINEAGE,
    fences: Mapping[str, Watermarks] | None = None,
    durable: Watermarks | None = None,
    observed: Watermarks | None = None,
    low: Watermarks | None = None,
    logs: Mapping[str, str] | None = None,
) -> LedgerView:
    """The view of a router of the run `run`, by default the last of `runs`, at a snapshot."""
    written = tuple(WriterRun(*each) for each in runs) if snapshot else ()
    return LedgerView(
        lineage=lineage,
        run=run or runs[-1][0],
        runs=written,
        snapshot=snapshot,
        logs=logs or {},
        observed=observed or {},
        durable=durable or {},
        low=low or {},
        fences=fences,
    )
