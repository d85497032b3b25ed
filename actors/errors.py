"""What can go wrong between the actors."""

from __future__ import annotations


class ActorError(Exception):
    """Root of every error raised by this package."""


class NotCaughtUp(ActorError):
    """The router has not yet applied every example a publication rests on; try again once it has."""


class UnknownDomain(ActorError):
    """A command names a domain, or a version of it, that is not there."""


class PublicationFailed(ActorError):
    """No replica could take a manifest."""
