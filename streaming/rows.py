"""The rows of files that people keep data sets in: JSON Lines, CSV, Parquet, Arrow, and folders of these, also as
`datasets.Dataset.save_to_disk` and `DatasetDict.save_to_disk` write them.

Rows are read one after another, a file is never held as a whole. What a row means is `columns`' to say.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streaming.errors import RecordError, StreamError
from streaming.records import Split, parse_json

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
"""What is read of a folder; a single file of any other name is taken for JSON Lines."""

SPLITS: dict[str, Split] = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "test", "valid": "test", "val": "test", "dev": "test", "eval": "test",
}  # fmt: skip
"""What a data set's parts are called, and what they are here: what is not to be trained on is held out."""

_NUMBERED = re.compile(r"[-_]\d+([-_]of[-_]\d+)?$")
_BATCH = 256
"""Rows of a table that are Python objects at a time."""
_LONGEST_CELL = 1 << 24
"""Characters in a cell of CSV, above what any stream takes."""


@dataclass(frozen=True)
class Row:
    """One row: `values`, or the RecordError it was refused with; `table` where its columns come from a table's head.
    `read` counts the bytes of all files up to it, as far as they are known."""

    where: str
    values: Mapping[str, Any] | RecordError
    table: bool
    split: Split | None
    read: int


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, and the part of it that it holds."""

    path: Path
    split: Split | None = None


_Piece = tuple[str, Any, float]
"""Place in the file, values or RecordError, share of the file that was read."""


def data_files(place: Path) -> list[DataFile]:
    """The files of a data set in order: the file itself, or those of a folder and the folders in it.

    In a folder, `train`, `test`, `validation` and the like, as a file's name, the last word before its suffix or a
    folder's name, say which part a file holds. Raises StreamError where there is nothing to read.
    """
    if place.is_file():
        return [DataFile(place)]
    if not place.is_dir():
        raise StreamError(f"{place}: expected a file or a folder of a data set, got nothing there; check the path")
    found = [
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith((".", "cache-")) for part in path.relative_to(place).parts)
    ]
    if not found:
        raise StreamError(f"{place}: expected files {', '.join(SUFFIXES)} in this folder, got none; check the path")
    kinds = {path.suffix.lower() == ".arrow" for path in found if _saved(path.parent)}
    if kinds == {True}:
        found = [path for folder in sorted({path.parent for path in found}) for path in _of_saved(folder, found)]
    return [DataFile(path, _split(path.relative_to(place))) for path in found]


def rows(files: Iterable[DataFile]) -> Iterator[Row]:
    """Every row of the files; one that can't be read is a RecordError in its place. Raises StreamError for a file."""
    before = 0
    for file in files:
        size = file.path.stat().st_size
        for where, values, share in _reader(file.path)(file.path):
            table = file.path.suffix.lower() in SUFFIXES[2:]
            yield Row(f"{file.path}{where}", values, table, file.split, before + int(size * share))
        before += size


def _saved(folder: Path) -> bool:
    return (folder / "state.json").is_file()


def _of_saved(folder: Path, found: list[Path]) -> list[Path]:
    """The shards of a saved data set in the order of its state; of another folder, all that were found."""
    there = [path for path in found if path.parent == folder]
    if not _saved(folder):
        return there
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        shards = [folder / Path(each["filename"]).name for each in state["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StreamError(f"{folder}/state.json: expected what save_to_disk writes, got another form") from error
    if missing := [path.name for path in shards if not path.is_file()]:
        raise StreamError(f"{folder}: {missing[0]} is missing, which state.json names; copy the whole folder")
    return shards


def _split(path: Path) -> Split | None:
    """Of `train-00000-of-00002.parquet`, `sales.train.jsonl` or `train/rows.csv`: train."""
    file = _NUMBERED.sub("", path.stem.split(".")[-1])
    return next((SPLITS[word.lower()] for word in (file, *path.parts[-2::-1]) if word.lower() in SPLITS), None)


def _reader(path: Path) -> Callable[[Path], Iterator[_Piece]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv
    return {".parquet": _parquet, ".arrow": _arrow}.get(suffix, _json_lines)


def _json_lines(path: Path) -> Iterator[_Piece]:
    size, read = path.stat().st_size or 1, 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                read += len(line)
                if not line.removeprefix(b"\xef\xbb\xbf").strip():
                    continue
                values: object
                try:
                    values = parse_json(line)
                    if not isinstance(values, dict):
                        kind = type(values).__name__
                        values = RecordError("bad-record", f"expected an object with the fields of a row, got {kind}")
                except RecordError as error:
                    values = error
                yield f":{number}", values, read / size
    except OSError as error:
        raise StreamError(f"cannot read records from {path}: {error.strerror}; give a JSON Lines file") from error


def _csv(path: Path) -> Iterator[_Piece]:
    """Cells as text, empty ones absent. A row's place is the line that it begins in."""
    size = path.stat().st_size or 1
    csv.field_size_limit(_LONGEST_CELL)
    with path.open("rb") as file:
        # Bytes that are no UTF-8 become lone surrogates, so that they cost their own row and no other.
        text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            names = next(reader, [])
        except csv.Error as error:
            raise StreamError(f"{path}:1: expected a line that names the columns: {error}") from error
        _check_names(path, names)
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield f":{number}", RecordError("undecodable", f"no row of CSV: {error}"), file.tell() / size
                continue
            if cells is None:
                return
            if not cells:
                continue
            yield f":{number}", _cells(names, cells), file.tell() / size


def _check_names(path: Path, names: list[str]) -> None:
    if not any(names):
        raise StreamError(f"{path}:1: expected a line that names the columns, got none")
    if not all(map(_decoded, names)):
        raise StreamError(f"{path}:1: expected text in UTF-8, got bytes that are none; convert the file")
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise StreamError(f"{path}:1: column {twice[0]!r} is named twice; rename one")


def _cells(names: list[str], cells: list[str]) -> dict[str, str | None] | RecordError:
    if len(cells) != len(names):
        return RecordError("bad-record", f"expected {len(names)} cells, as the first line names, got {len(cells)}")
    if not all(map(_decoded, cells)):
        return RecordError("undecodable", "not UTF-8")
    return {name: cell or None for name, cell in zip(names, cells, strict=True)}


def _decoded(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True


def _parquet(path: Path) -> Iterator[_Piece]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from _tables(file.iter_batches(_BATCH), file.schema_arrow, lambda n: n / file.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from error


def _arrow(path: Path) -> Iterator[_Piece]:
    """Arrow's stream format, as `save_to_disk` writes it, or its file format."""
    import pyarrow as pa

    try:
        # Mapped: a batch takes memory while it is read, whatever the file's length.
        with pa.memory_map(str(path)) as source:
            in_file = source.read(6) == b"ARROW1"
            source.seek(0)
            reader = pa.ipc.open_file(source) if in_file else pa.ipc.open_stream(source)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if in_file else iter(reader)
            parts = (part for batch in batches for part in _parts(batch))
            yield from _tables(parts, reader.schema, lambda _: source.tell() / source.size())
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Arrow", error) from error


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    return (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))


def _tables(batches: Iterator[pa.RecordBatch], schema: pa.Schema, share: Callable[[int], float]) -> Iterator[_Piece]:
    """Rows with their columns; the numbers of a Hugging Face `ClassLabel` are put as the names that they stand for."""
    labels, number = _labels(schema), 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            for column, names in labels.items():
                at = values[column]
                values[column] = names[at] if isinstance(at, int) and 0 <= at < len(names) else None
            yield f": row {number}", values, share(number)


def _labels(schema: pa.Schema) -> dict[str, list[str]]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: each["names"] for name, each in features.items() if each.get("_type") == "ClassLabel"}
    except (LookupError, ValueError, TypeError, AttributeError):
        return {}
    return {name: names for name, names in found.items() if name in schema.names}


def _unreadable(path: Path, kind: str, error: Exception) -> StreamError:
    return StreamError(f"cannot read {path} as {kind}: {' '.join(str(error).split())[:200]}")
