"""What can go wrong between the actors, and how an error of any kind is said in one line."""

from __future__ import annotations

import re

_LONGEST = 300
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:;,'\"()]+/)+")
_ADDRESSES = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\b0x[0-9a-fA-F]+\b")


class ActorError(Exception):
    """Root of every error raised by this package."""


class NotCaughtUp(ActorError):
    """The router has not yet applied every example a publication rests on; try again once it has."""


class UnknownDomain(ActorError):
    """A command names a domain, or a version of it, that is not there."""


class PublicationFailed(ActorError):
    """No replica could take a manifest."""


class Unanswered(ActorError):
    """A worker that must take part does not answer; try again once it does."""


class Unreachable(ActorError):
    """A remote actor is not there, or does not answer; it may again."""


class OfferRefused(ActorError):
    """An adapter that was made elsewhere is none that can be served here; the message says why."""


class DomainTaken(ActorError):
    """A domain takes no adapter made elsewhere now: it is pinned, or a version of it is being made."""


class NoLongerSealed(ActorError):
    """A version was trained on rows that the ledger does not hold sealed for it: the domain was removed meanwhile."""


class OutOfDate(ActorError):
    """A version was trained from a state, or beside a domain, that is not there any more: it is to be trained again."""


class SpoolAhead(ActorError):
    """A spool has dropped rows by a snapshot that the router's does not descend from."""


class OtherHome(ActorError):
    """What lies in the home folder was made with another base, template or log than this system runs with."""


def in_words(error: BaseException) -> str:
    """Return an error's message as one bounded line without traceback, folders or addresses.

    A remote error's text is a traceback; its cause, or else that text's last line, is the message. What is no sentence
    is said with the error's class.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        error = cause
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        text = text.splitlines()[-1]
    text = _ADDRESSES.sub("...", _FOLDERS.sub("", " ".join(text.split())))
    if " " not in text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
