"""The errors of `learning`; every one of them is a `LearningError`."""

from __future__ import annotations

from collections.abc import Sequence


class LearningError(Exception):
    """Root of everything this package raises on bad input or a failed computation."""


class FingerprintMismatch(LearningError):
    """Two things made from differently configured features were about to be combined."""


class UnseenDomain(LearningError):
    """A domain was named that the router has never seen."""


class CheckpointError(LearningError):
    """A base model's files are missing, unreadable or of a kind that is not supported."""


class CatalogueError(CheckpointError):
    """A model of the catalogue is not there, or could not be fetched, checked or made."""


class TemplateError(LearningError):
    """A prompt template is missing or can't be rendered."""


class SolveError(LearningError):
    """The regularised Gram matrix could not be factored, or gave weights that are not finite."""


class UnusableRows(LearningError):
    """Some texts or rows of a block can't be used; without them the others can."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)
        """Their indices in the block, rising."""

    def __reduce__(self) -> tuple[type[UnusableRows], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.rows)


class TextsWithoutTokens(UnusableRows):
    """Texts from which no feature can be made, because the tokenizer finds nothing in them."""


class UnusableFeatures(UnusableRows):
    """Feature rows that hold NaN, infinity or an absurd magnitude, and would spoil every sum they entered."""
