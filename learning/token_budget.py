"""Work on examples in pieces that fit into memory.

A piece's forward is a rectangle, its rows times the longest of them; where memory runs out, the rectangle is halved and
the work done over, down to one example. Does not know what the work is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from learning.completion_loss import EncodedExample
from learning.errors import LearningError

_Result = TypeVar("_Result")


class TokenBudget:
    """At most `rows` examples and `tokens` padded tokens a piece (None: no limit), but always one example."""

    def __init__(self, rows: int, tokens: int | None) -> None:
        self._rows = rows
        self.tokens = tokens
        """Lower after memory ran out, for all that follows."""

    def pieces(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """All examples in their order; those of like length should stand together."""
        piece: list[EncodedExample] = []
        for example in examples:
            if piece and (len(piece) == self._rows or not self._fits([*piece, example])):
                yield piece
                piece = []
            piece.append(example)
        if piece:
            yield piece

    def each(
        self,
        work: Callable[[list[EncodedExample]], _Result],
        examples: Sequence[EncodedExample],
        undo: Callable[[], None] = lambda: None,
    ) -> list[_Result]:
        """What `work` gives for each piece, in order.

        When memory runs out, `undo` is called and all pieces are done again, smaller. Raises `LearningError` where it
        runs out with a single example.
        """
        while True:
            results: list[_Result] = []
            for piece in self.pieces(examples):
                try:
                    results.append(work(piece))
                except (MemoryError, RuntimeError) as error:
                    if not _is_out_of_memory(error):
                        raise
                    if len(piece) == 1:
                        raise LearningError(
                            f"out of memory with one example of {len(piece[0].ids)} tokens: lower max_tokens or "
                            f"logit_chunk, switch gradient_checkpointing on, or take a smaller base ({error})"
                        ) from error
                    self.tokens = _area(piece) // 2
                    break
            else:
                return results
            # Only here has the error let go of the tensors that its frames held.
            results.clear()
            undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fits(self, piece: Sequence[EncodedExample]) -> bool:
        return self.tokens is None or _area(piece) <= self.tokens


def _area(piece: Sequence[EncodedExample]) -> int:
    return len(piece) * max(len(example.ids) for example in piece)


def _is_out_of_memory(error: Exception) -> bool:
    # A CPU's allocator has no error class of its own.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
