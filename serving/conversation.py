"""Chats of several turns: what of one is scored, and which turn's domain answers.

A router has learned lone user messages. So the first and the last user message are scored apart, each as if the chat
had begun with it: behind what stands before the first one (a system message), and without all that came after. The
first's domain stays unless the last leads over it by a margin: a follow-up says little by itself, and a chat that keeps
its adapter keeps its place in the engine's prefix cache. Knows no scorer and no adapter's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from serving.selection import Choice, score_of
from serving.served import ServedManifest

Message = Mapping[str, str]


def turns(messages: Sequence[Message]) -> list[Sequence[Message]]:
    """The messages to be scored, as chats of their own: the first user message's and, where that is another one, the
    last's. User messages without text are passed over; a chat without any other is taken as it is."""
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    spoken = [place for place in users if messages[place]["content"].strip()]
    if not spoken:
        return [messages]
    before = messages[: users[0]]
    return [[*before, messages[place]] for place in dict.fromkeys((spoken[0], spoken[-1]))]


def conversed(served: ServedManifest, first: Choice, last: Choice, margin: float) -> Choice:
    """Who answers a chat whose first and last turn would be answered by these."""
    lead = lead_of(served, first, last)
    stays = first.adapter is not None and (lead is None or lead <= margin)
    return replace(first if stays else last, turns=(first, last), lead=lead)


def lead_of(served: ServedManifest, kept: Choice, last: Choice) -> float | None:
    """By how much the last turn's own domain scores higher in it than the domain that was kept; None where it has no
    domain of its own, or the same."""
    if kept.adapter is None or last.adapter is None or last.domain == kept.domain or last.decision is None:
        return None
    before = score_of(served, kept.domain, last.decision)
    return None if before is None or last.score is None else last.score - before
