"""What a worker should read and its log does not give any more: another worker has it, or it is lost.

Level-triggered: what a worker reports missing is looked at again at every tick until the worker is told to go on, so a
coordinator that dies in between only asks again. It knows neither what is in the rows nor what follows for a domain.
"""

from __future__ import annotations

from actors.errors import in_words
from actors.observation import Watermarks
from actors.ports import ManifestPort
from actors.report import Missing
from actors.spools import Spools


class StillThere(Exception):
    """Why a missing stretch can't be given up yet: who may have it."""


def give_up_what_is_lost(spools: Spools, router: ManifestPort, observed: Watermarks) -> list[str]:
    """Have what no worker has noted as lost, and its readers go on; returns what is to be said of the rest.

    A stretch waits while a worker doesn't answer, as that one may hold rows of it, and while another one has rows of it
    that the router has not counted, as those will be.
    """
    waiting = []
    for name, report in spools.reports.items():
        for missing in report.missing:
            where = f"{missing.partition} offsets {missing.first} to {missing.end - 1}"
            try:
                held = _held_elsewhere(spools, name, missing, observed)
                router.lose(missing.partition, missing.first, missing.end, held)
                spools.worker(name).give_up(missing.partition, missing.first, missing.end)
            except StillThere as reason:
                waiting.append(f"{where} can't be read by {name} any more; {reason}")
            except Exception as error:
                waiting.append(f"{where} can't be read by {name} any more, nor be given up: {in_words(error)}")
    return waiting


def _held_elsewhere(spools: Spools, name: str, missing: Missing, observed: Watermarks) -> frozenset[int]:
    """Return the offsets of the stretch whose rows other workers hold."""
    held: set[int] = set()
    begin = max(missing.first, observed.get(missing.partition, 0))
    for other, ingest in spools.others(name).items():
        try:
            held |= ingest.held(missing.partition, missing.first, missing.end).offsets
            counts_on = begin < missing.end and ingest.held(missing.partition, begin, missing.end).covers
        except Exception as error:
            raise StillThere(f"{other} may hold them and does not answer: {in_words(error)}") from error
        if counts_on:
            raise StillThere(f"{other} has read on from there and its rows are being counted")
    return frozenset(held)
