"""The linear modules of a base's decoder layers, from the headers of its files: no weight is read to know their widths.

Needs numpy alone; knows no adapter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from learning.checkpoint import resolve, weight_files
from learning.errors import CheckpointError, LearningError
from learning.tensor_file import TensorPlace, norm, read_entries

_MOST_HEADER_BYTES = 100_000_000
_LINEAR = re.compile(r"^(?P<module>.*\.layers\.\d+\..+)\.weight$")


@dataclass(frozen=True)
class BaseModules:
    """By their names in the checkpoint, without `.weight`."""

    widths: dict[str, tuple[int, int]]
    """Inputs and outputs."""
    _places: dict[str, tuple[Path, TensorPlace]]

    @classmethod
    def of(cls, model: str) -> BaseModules:
        """Those of a base given as a folder or by its name. Raises `CheckpointError`."""
        places: dict[str, tuple[Path, TensorPlace]] = {}
        for path in weight_files(resolve(model)):
            try:
                with path.open("rb") as file:
                    entries = read_entries(file, _MOST_HEADER_BYTES)
            except (OSError, LearningError) as error:
                raise CheckpointError(f"base model {model}: {path.name}: {error}; fetch the model again") from error
            for name, entry in entries.items():
                if (match := _LINEAR.match(name)) and len(entry.shape) == 2 and entry.is_float:
                    places[match["module"]] = path, entry
        widths = {module: (entry.shape[1], entry.shape[0]) for module, (_, entry) in places.items()}
        return cls(widths, places)

    def norm(self, module: str) -> float:
        """The Frobenius norm of a module's weight, which is read for it. Raises `CheckpointError`."""
        path, entry = self._places[module]
        try:
            with path.open("rb") as file:
                return norm(file, entry)
        except (OSError, LearningError) as error:
            raise CheckpointError(f"base model: {path.name}: {error}; fetch the model again") from error
