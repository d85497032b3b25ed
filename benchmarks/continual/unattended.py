"""A control port with nothing behind it: a front door that answers, on a system that learns nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from serving.api import CommandResult, DomainStatus, SystemStatus
from serving.errors import ControlUnavailable
from serving.past_bodies import Letter, LetterChoice, ReplayResult


class Unattended:
    """Refuses all that is not answering; see `serving.ports.ControlPort`."""

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        _refuse()

    async def domains(self) -> tuple[DomainStatus, ...]:
        _refuse()

    async def remove(self, domain: str) -> CommandResult:
        _refuse()

    async def rollback(self, domain: str, version: str | None) -> CommandResult:
        _refuse()

    async def pin(self, domain: str, version: str | None) -> CommandResult:
        _refuse()

    async def unpin(self, domain: str) -> CommandResult:
        _refuse()

    async def learn(self, domain: str) -> CommandResult:
        _refuse()

    async def add_adapter(self, domain: str, offer: str, note: str) -> CommandResult:
        _refuse()

    async def dead_letters(self) -> tuple[Letter, ...]:
        _refuse()

    async def replay_letters(self, chosen: Sequence[LetterChoice] | None) -> ReplayResult:
        _refuse()

    async def status(self) -> SystemStatus:
        _refuse()


def _refuse() -> NoReturn:
    raise ControlUnavailable("nobody learns here: what a benchmark has learned is served as it is")
