"""What stops a command: one clear line, exit code 2."""

from __future__ import annotations


class ClusterError(Exception):
    """Something outside the program stands in the way; the message says what, where, expected, got and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
