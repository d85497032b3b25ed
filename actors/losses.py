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

    A stretch waits while a worker doesn't answer, as that one may hold rows of it. What another one has read and the
    router has not counted will be; what lies before that is given up, as nothing behind it can be counted otherwise.
    """
    waiting = []
    for name, report in spools.reports.items():
        for missing in report.missing:
            where = f"{missing.partition} offsets {missing.first} to {missing.end - 1}"
            try:
                held, end = _held_elsewhere(spools, name, missing, observed)
                router.lose(missing.partition, missing.first, end, held)
                spools.worker(name).give_up(missing.partition, missing.first, end)
            except StillThere as reason:
                waiting.append(f"{where} can't be read by {name} any more; {reason}")
            except Exception as error:
                waiting.append(f"{where} can't be read by {name} any more, nor be given up: {in_words(error)}")
    return waiting


def _held_elsewhere(spools: Spools, name: str, missing: Missing, observed: Watermarks) -> tuple[frozenset[int], int]:
    """Return the offsets of the stretch whose rows other workers hold, and up to where nobody is going to count it."""
    held: set[int] = set()
    begin, end = max(missing.first, observed.get(missing.partition, 0)), missing.end
    for other, ingest in spools.others(name).items():
        try:
            held |= ingest.held(missing.partition, missing.first, missing.end).offsets
            begins = ingest.held(missing.partition, begin, end).begins if begin < end else None
        except Exception as error:
            raise StillThere(f"{other} may hold them and does not answer: {in_words(error)}") from error
        if begins == begin:
            raise StillThere(f"{other} has read on from there and its rows are being counted")
        end = end if begins is None else begins
    return frozenset(held), end
