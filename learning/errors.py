"""The errors of `learning`; every one of them is a `LearningError`."""


class LearningError(Exception):
    """Root of everything this package raises on bad input or a failed computation."""


class FingerprintMismatch(LearningError):
    """Two things made from differently configured features were about to be combined."""


class UnknownDomain(LearningError):
    """A domain was named that the router has never seen."""


class CheckpointError(LearningError):
    """A base model's files are missing, unreadable or of a kind that is not supported."""


class TemplateError(LearningError):
    """A prompt template is missing or can't be rendered."""


class SolveError(LearningError):
    """The regularised Gram matrix could not be factored."""
