"""Rows of files: the same ones in every format, each with its place, and a bad one costs itself alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from streaming.errors import RecordError, StreamError
from streaming.rows import Row, data_files, rows

Table = list[dict[str, Any]]
TABLE: Table = [{"question": f'what, is "{n}"\nand ü?', "answer": str(n), "note": None} for n in range(600)]
SCHEMA = pa.schema([("question", pa.string()), ("answer", pa.string()), ("note", pa.string())])


def read(place: Path) -> list[Row]:
    return list(rows(data_files(place)))


def write_lines(path: Path, table: Table) -> None:
    path.write_text("\n".join(json.dumps(row) for row in table) + "\n\n", encoding="utf-8-sig")


def write_csv(path: Path, table: Table) -> None:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    pyarrow.csv.write_csv(pa.Table.from_pylist(table, SCHEMA), path, pyarrow.csv.WriteOptions(delimiter=delimiter))


def write_parquet(path: Path, table: Table) -> None:
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), path, row_group_size=250)


def write_stream(path: Path, table: Table, schema: pa.Schema = SCHEMA) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        writer.write_table(pa.Table.from_pylist(table, schema), max_chunksize=400)


def write_file(path: Path, table: Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(table, SCHEMA))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_lines), ("a.txt", write_lines), ("a.csv", write_csv), ("a.TSV", write_csv),
        ("a.tsv", write_csv), ("a.parquet", write_parquet), ("a.arrow", write_stream), ("b.arrow", write_file),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, write: Callable[[Path, Table], None]) -> None:
    if name == "a.TSV":
        write(tmp_path / "a.tsv", TABLE)
        (tmp_path / "a.tsv").rename(tmp_path / name)
    else:
        write(tmp_path / name, TABLE)
    found = read(tmp_path / name)
    assert [row.values for row in found] == TABLE
    assert [row.read for row in found] == sorted(row.read for row in found)
    assert found[-1].read <= (tmp_path / name).stat().st_size
    assert all(row.split is None and row.table == (name != "a.jsonl" and name != "a.txt") for row in found)


def test_places_are_lines_or_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "a.csv").write_text('a,b\n"1\n1",2\n\n3,4\n')
    write_parquet(tmp_path / "a.parquet", TABLE[:300])
    assert [row.where.split("/")[-1] for row in read(tmp_path / "a.jsonl")] == ["a.jsonl:1", "a.jsonl:3"]
    assert [row.where.split("/")[-1] for row in read(tmp_path / "a.csv")] == ["a.csv:2", "a.csv:5"]
    assert read(tmp_path / "a.parquet")[-1].where.endswith("a.parquet: row 300")


def test_a_bad_row_of_csv_costs_itself_alone(tmp_path: Path) -> None:
    lines = [b"a,b", b"1,2", b"1,2,3", b'"x"y,2', b"\xff\xfe,2", b'1,"open', b""]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    found = [row.values for row in read(tmp_path / "a.csv")]
    assert found[0] == {"a": "1", "b": "2"}
    reasons = [(each.reason, each.message) for each in found[1:] if isinstance(each, RecordError)]
    assert [reason for reason, _ in reasons] == ["bad-record", "undecodable", "undecodable", "undecodable"]
    assert "expected 2 cells" in reasons[0][1]


def test_a_bad_line_of_json_costs_itself_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a"\n[1]\n\xff\n{"a": 2}\n')
    found = [row.values for row in read(tmp_path / "a.jsonl")]
    assert found[0] == {"a": 1} and found[-1] == {"a": 2}
    assert [isinstance(each, RecordError) for each in found] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"", "names the columns"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-8"),
        ("a.csv", b"a,a\n1,2\n", "'a' is named twice"),
        ("a.parquet", b"PAR1 and no more", "as Parquet"),
        ("a.arrow", b"", "as Arrow"),
        ("a.arrow", b"ARROW1 and no more", "as Arrow"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StreamError, match=said) as told:
        read(tmp_path / name)
    assert name in str(told.value) and "\n" not in str(told.value)


def test_a_cut_parquet_file_is_told(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", TABLE)
    content = (tmp_path / "a.parquet").read_bytes()
    middle = len(content) // 3
    (tmp_path / "a.parquet").write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
    with pytest.raises(StreamError, match="as Parquet"):
        read(tmp_path / "a.parquet")


def saved(folder: Path, shards: list[str], table: Table, schema: pa.Schema = SCHEMA) -> None:
    """A data set as `datasets.Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    per = -(-len(table) // len(shards))
    for number, name in enumerate(shards):
        write_stream(folder / name, table[number * per : (number + 1) * per], schema)
    state = {"_data_files": [{"filename": name} for name in shards], "_split": None, "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_saved_data_set_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    shards = ["data-2.arrow", "data-10.arrow", "data-1.arrow"]
    saved(tmp_path / "set", shards, TABLE)
    write_stream(tmp_path / "set" / "cache-1.arrow", TABLE)
    assert [row.values for row in read(tmp_path / "set")] == TABLE
    (tmp_path / "set" / "data-10.arrow").unlink()
    with pytest.raises(StreamError, match=r"data-10\.arrow is missing"):
        data_files(tmp_path / "set")


def test_parts_of_a_data_set_keep_their_meaning(tmp_path: Path) -> None:
    saved(tmp_path / "set" / "train", ["a.arrow"], TABLE[:2])
    saved(tmp_path / "set" / "validation", ["a.arrow"], TABLE[2:3])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert [(row.values, row.split) for row in read(tmp_path / "set")] == [
        (TABLE[0], "train"), (TABLE[1], "train"), (TABLE[2], "test")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"), ("test-00000-of-00002.csv", "test"), ("sales.train.csv", "train"),
        ("val/rows.csv", "test"), ("dev-ops.csv", None), ("dev-ops/rows.csv", None), ("sql/Test_1.csv", "test"),
    ],
)  # fmt: skip
def test_names_of_parts(tmp_path: Path, name: str, split: str | None) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a\n1\n")
    (tmp_path / "README.md").write_text("not read")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.csv").write_text("a\n1\n")
    assert [file.split for file in data_files(tmp_path)] == [split]


def test_numbers_of_a_class_label_are_its_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("text", pa.string()), ("label", pa.int64())], metadata)
    table = [{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}]
    pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / "a.parquet")
    values = [row.values for row in read(tmp_path / "a.parquet")]
    assert values == [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}, {"text": "c", "label": None}]


def test_a_folder_without_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(StreamError, match=r"expected files \.jsonl"):
        data_files(tmp_path)
    with pytest.raises(StreamError, match="nothing there"):
        data_files(tmp_path / "nowhere")
