"""A training's folders on their way from the learner that made them to whoever takes them in, on whatever machine.

They lie where the registry does, below `trained/`, as that is what all machines share. A learner removes what its
predecessors left there, so that nothing stays for good. What this module does not know: what is in the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

from actors.errors import in_words
from learning.contract import TrainingResult
from registry.errors import RegistryError
from registry.storage import Listed, Storage

_FOLDER = "trained"
_log = logging.getLogger(__name__)


class Handover:
    """The way through `storage`. Raises what that does."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def give(self, owner: str, name: str, result: TrainingResult) -> TrainingResult:
        """Move the files of a result's folders there, of which one may lie in another, and return it as others find
        them; `name` is for people."""

        def moved(folder: Path | None) -> Path | None:
            key = f"{_FOLDER}/{owner}~{name}~{uuid4().hex[:8]}"
            return folder and self._storage.hand_over(key, folder)

        adapters = tuple(replace(each, folder=moved(each.folder)) for each in result.adapters)
        return replace(result, adapters=adapters, state=moved(result.state), base_delta=moved(result.base_delta))

    def present(self, paths: Iterable[Path | None]) -> None:
        """Have folders on this machine that another one knows by these paths."""
        for path in paths:
            if path is not None:
                self._storage.present(path)

    def clear(self, result: TrainingResult) -> None:
        """Remove a result's folders; what can't be removed is said, and goes with the learner's next training."""
        for folder in result.folders:
            with _said():
                self._storage.take_away(folder)

    def empty(self, owner: str) -> None:
        """Remove all that is left there of that learner; what can't be is said, and stays until it is tried again."""
        with _said():
            self._storage.open([_FOLDER])
            for each in self._storage.folders(_FOLDER):
                if _owner(each) == owner:
                    self._storage.remove_folder(each.key)
            # And files of those that never came to be whole.
            self._storage.remove([each.key for each in self._storage.entries(_FOLDER) if _owner(each) == owner])


def _owner(entry: Listed) -> str:
    return entry.key.split("/")[1].partition("~")[0]


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except (OSError, RegistryError) as error:
        _log.warning("left of a training: %s", in_words(error))
