"""Records are strict at the border, and every refusal is one line that names the field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streaming.errors import RecordError, StreamError
from streaming.records import EndOfDomain, Message, TaskRecord, from_mapping, from_row, read_jsonl

PLAIN: dict[str, Any] = {"id": "r1", "domain": "bank", "prompt": "how much?", "completion": "balance"}


def record(**changes: Any) -> TaskRecord:
    made = from_mapping({key: value for key, value in {**PLAIN, **changes}.items() if value is not ...})
    assert isinstance(made, TaskRecord)
    return made


def refusal(plain: object) -> RecordError:
    with pytest.raises(RecordError) as caught:
        from_mapping(plain)
    assert "\n" not in str(caught.value)
    return caught.value


def test_plain_values_make_a_record_and_come_back() -> None:
    made = record(split="train", created_at="2026-01-02T03:04:05Z", meta={"source": {"line": 3}})
    assert made.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert from_mapping(made.to_mapping()) == made


def test_a_bare_prompt_is_one_user_message() -> None:
    assert record().messages_or_prompt() == [{"role": "user", "content": "how much?"}]


def test_messages_are_kept_in_order() -> None:
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "how much?"}]
    made = record(prompt=..., messages=turns)
    assert made.messages == (Message(**turns[0]), Message(**turns[1]))
    assert made.messages_or_prompt() == turns
    assert from_mapping(made.to_mapping()) == made


@pytest.mark.parametrize("changes", [{"prompt": ...}, {"messages": [{"role": "user", "content": "x"}]}])
def test_exactly_one_of_prompt_and_messages(changes: dict[str, Any]) -> None:
    error = refusal({key: value for key, value in {**PLAIN, **changes}.items() if value is not ...})
    assert error.reason == "bad-record"
    assert "either 'prompt' or 'messages'" in str(error)


def test_records_are_frozen() -> None:
    with pytest.raises(ValidationError):
        record().completion = "other"  # type: ignore[misc]


class TestId:
    def test_without_one_equal_examples_share_an_id(self) -> None:
        assert record(id=...).id == record(id=...).id
        assert len(record(id=...).id) == 32

    def test_a_prompt_and_the_same_single_message_are_one_example(self) -> None:
        spoken = record(id=..., prompt=..., messages=[{"role": "user", "content": PLAIN["prompt"]}])
        assert spoken.id == record(id=...).id

    @pytest.mark.parametrize(
        "changes", [{"domain": "home"}, {"prompt": "how many?"}, {"completion": "other"}, {"split": "test"}]
    )
    def test_content_decides(self, changes: dict[str, Any]) -> None:
        assert record(id=..., **changes).id != record(id=...).id

    def test_when_and_whence_do_not(self) -> None:
        noted = record(id=..., created_at="2026-01-02T03:04:05Z", meta={"a": 1})
        assert noted.id == record(id=...).id

    def test_survives_the_wire(self) -> None:
        made = record(id=...)
        assert from_mapping(made.to_mapping()).id == made.id  # type: ignore[union-attr]

    @pytest.mark.parametrize("bad", ["", "x" * 201, "a\nb", 7, "a\x00"])
    def test_bad_ones(self, bad: object) -> None:
        assert refusal({**PLAIN, "id": bad}).reason == "bad-record"


class TestDomain:
    @pytest.mark.parametrize("good", ["a", "0", "sst-2", "small_talk", "a" * 63])
    def test_slugs(self, good: str) -> None:
        assert record(domain=good).domain == good

    @pytest.mark.parametrize(
        "bad", ["", "Bank", "-a", "_a", "a b", "a/b", "a@v1", "..", "ä", "a" * 64, "a\n", "auto", "base", 3, ["a"]]
    )
    def test_anything_else_is_a_bad_domain(self, bad: object) -> None:
        error = refusal({**PLAIN, "domain": bad})
        assert error.reason == "bad-domain"
        assert "domain" in str(error)
        assert refusal({"kind": "end_of_domain", "domain": bad}).reason == "bad-domain"

    @pytest.mark.parametrize("absent", [None, ...])
    def test_may_be_absent(self, absent: object) -> None:
        assert record(domain=absent).domain is None


class TestRefusals:
    @pytest.mark.parametrize("bad", ["", "  \n", None, ...])
    def test_no_completion(self, bad: object) -> None:
        plain = {key: value for key, value in {**PLAIN, "completion": bad}.items() if value is not ...}
        assert refusal(plain).reason == "empty-completion"

    def test_a_completion_that_is_no_text(self) -> None:
        assert refusal({**PLAIN, "completion": 3}).reason == "bad-record"

    @pytest.mark.parametrize("name", ["label", "kind_", "Meta", "x" * 500, "new\nline"])
    def test_an_unknown_field_is_named(self, name: str) -> None:
        error = refusal({**PLAIN, name: 1})
        assert error.reason == "bad-record"
        assert "unknown field" in str(error) and repr(name)[1:20] in str(error)
        assert len(str(error)) < 400

    def test_an_unknown_field_within_a_message_is_named(self) -> None:
        turns = [{"role": "user", "content": "x", "name": "ann"}]
        error = refusal({"messages": turns, "completion": "y"})
        assert "messages.0.name" in str(error)

    @pytest.mark.parametrize(
        "bad",
        [
            {"prompt": 3},
            {"prompt": ""},
            {"prompt": "\ud800"},
            {"completion": "\ud800"},
            {"id": "\ud800"},
            {"split": "dev"},
            {"split": 1},
            {"meta": []},
            {"created_at": 1700000000},
            {"created_at": "2026-01-02"},
            {"created_at": "2026-01-02T03:04:05"},
            {"created_at": "2026-13-02T03:04:05Z"},
            {"created_at": "1700000000"},
            {"created_at": datetime(2026, 1, 2)},
            {"prompt": None, "messages": []},
            {"prompt": None, "messages": {}},
            {"prompt": None, "messages": "hello"},
            {"prompt": None, "messages": [{"role": "robot", "content": "x"}]},
            {"prompt": None, "messages": [{"role": "user", "content": None}]},
            {"prompt": None, "messages": [["user", "x"]]},
        ],
    )
    def test_wrong_values(self, bad: dict[str, Any]) -> None:
        error = refusal({**PLAIN, **bad})
        assert error.reason == "bad-record"
        assert next(reversed(bad)) in str(error)

    @pytest.mark.parametrize("bad", [None, [], "text", 3, b"bytes"])
    def test_no_object(self, bad: object) -> None:
        assert refusal(bad).reason == "bad-record"

    @pytest.mark.parametrize(
        "value",
        [
            float("nan"),
            float("inf"),
            2**64,
            -(2**63) - 1,
            b"x",
            {1: 2},
            object(),
            "\udfff",
            {"\udfff": 1},
            datetime(2026, 1, 2, tzinfo=UTC),
        ],
    )
    def test_meta_holds_only_what_every_format_can(self, value: object) -> None:
        error = refusal({**PLAIN, "meta": {"x": value}})
        assert error.reason == "bad-record" and "meta" in str(error)

    def test_meta_is_not_nested_without_end(self) -> None:
        deep: object = 1
        for _ in range(8):
            deep = [deep]
        assert "nested" in str(refusal({**PLAIN, "meta": {"x": deep}}))

    @pytest.mark.parametrize("name", ["start_of_domain", "", 3])
    def test_unknown_kinds(self, name: object) -> None:
        assert refusal({"kind": name, "domain": "bank"}).reason == "bad-record"

    def test_a_marker_has_no_further_fields(self) -> None:
        assert "completion" in str(refusal({"kind": "end_of_domain", "domain": "bank", "completion": "x"}))


class TestNulls:
    """Null means absent, in records, messages, markers and rows."""

    @pytest.mark.parametrize("name", ["id", "domain", "messages", "split", "created_at", "meta", "kind", "unheard_of"])
    def test_in_a_record(self, name: str) -> None:
        without = {key: value for key, value in PLAIN.items() if key != name}
        assert from_mapping({**without, name: None}) == from_mapping(without)

    def test_in_a_message(self) -> None:
        turn = {"role": "user", "content": "how much?"}
        assert record(prompt=None, messages=[{**turn, "name": None}]) == record(prompt=None, messages=[turn])

    def test_in_a_marker(self) -> None:
        assert from_mapping({"kind": "end_of_domain", "domain": "bank", "split": None}) == EndOfDomain(domain="bank")

    @pytest.mark.parametrize("name", ["id", "split", "created_at", "meta", "kind", "prompt", "messages", "options"])
    def test_in_a_row(self, name: str) -> None:
        row = {"task": "bank", "input": "x", "output": "y"}
        assert from_mapping({**row, name: None}) == from_mapping(row)

    def test_without_an_id_the_content_names_it(self) -> None:
        assert record(id=None).id == record(id=...).id

    def test_the_split_of_a_file_is_for_rows_with_a_null_too(self) -> None:
        row = {"task": "bank", "input": "x", "output": "y", "split": None}
        made = from_mapping(row, split="test")
        assert isinstance(made, TaskRecord) and made.split == "test"

    def test_what_lies_within_meta_is_kept(self) -> None:
        assert record(meta={"parent": None}).meta == {"parent": None}


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("2026-01-02T03:04:05+02:00", timedelta(hours=2)),
        ("2026-01-02t03:04:05.123456789z", timedelta(0)),
        ("2026-01-02 03:04:05-00:30", -timedelta(minutes=30)),
    ],
)
def test_times_keep_their_offset(text: str, offset: timedelta) -> None:
    made = record(created_at=text)
    assert made.created_at is not None and made.created_at.utcoffset() == offset
    assert from_mapping(made.to_mapping()) == made


def test_an_aware_datetime_is_taken_as_it_is() -> None:
    moment = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=1)))
    assert TaskRecord(prompt="x", completion="y", created_at=moment).created_at == moment


class TestRows:
    def test_a_row_becomes_a_record(self) -> None:
        made = from_row({"task": "SST-2", "input": "good film", "output": "positive", "options": ["positive"]})
        assert (made.domain, made.prompt, made.completion) == ("sst-2", "good film", "positive")
        assert made.split is None and made.meta == {"options": ["positive"]}

    def test_known_columns_keep_their_meaning(self) -> None:
        row = {"task": "a", "input": "x", "output": "y", "id": "7", "split": "test", "meta": {"k": 1}}
        made = from_row(row, split="train")
        assert (made.id, made.split, made.meta) == ("7", "test", {"k": 1})

    def test_the_split_of_a_file(self) -> None:
        assert from_row({"task": "a", "input": "x", "output": "y"}, split="test").split == "test"

    def test_a_mapping_is_read_alike_in_either_layout(self) -> None:
        row = {"task": "bank", "input": "how much?", "output": "balance", "id": "r1"}
        assert from_mapping(row) == from_mapping(PLAIN)

    def test_a_column_called_kind_is_a_further_one(self) -> None:
        made = from_mapping({"task": "a", "input": "x", "output": "y", "kind": "question"})
        assert isinstance(made, TaskRecord) and made.meta == {"kind": "question"}

    @pytest.mark.parametrize("name", ["prompt", "messages", "completion"])
    def test_two_layouts_in_one_are_refused(self, name: str) -> None:
        row = {"task": "a", "input": "x", "output": "y", name: "z"}
        for read in (from_mapping, from_row):
            with pytest.raises(RecordError, match=f"field '{name}'") as caught:
                read(row)
            assert caught.value.reason == "bad-record"

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ({"task": "a b", "input": "x", "output": "y"}, "bad-domain"),
            ({"task": "a", "input": "x", "output": None}, "empty-completion"),
            ({"task": "a", "output": "y"}, "bad-record"),
            ({"task": "a", "input": "x", "output": "y", "meta": 3}, "bad-record"),
        ],
    )
    def test_bad_rows(self, row: dict[str, Any], reason: str) -> None:
        with pytest.raises(RecordError) as caught:
            from_row(row)
        assert caught.value.reason == reason


class TestFiles:
    def test_both_layouts_in_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "stream.jsonl"
        lines = [PLAIN, {"task": "bank", "input": "x", "output": "y"}, {"kind": "end_of_domain", "domain": "bank"}]
        path.write_text("\n\n".join(json.dumps(line) for line in lines))
        first, second, third = read_jsonl(path, split="train")
        assert isinstance(first, TaskRecord) and first.id == "r1" and first.split is None
        assert isinstance(second, TaskRecord) and second.prompt == "x" and second.split == "train"
        assert third == EndOfDomain(domain="bank")

    @pytest.mark.parametrize("bad", ["{", '{"prompt": "x"}', "[1]", '{"completion": NaN}', '"\ud83d"'])
    def test_an_error_names_file_and_line(self, tmp_path: Path, bad: str) -> None:
        path = tmp_path / "stream.jsonl"
        path.write_text(json.dumps(PLAIN) + "\n" + bad + "\n", errors="surrogatepass")
        found = read_jsonl(path)
        next(found)
        with pytest.raises(RecordError, match=r"stream\.jsonl:2: "):
            next(found)

    def test_a_byte_order_mark_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "stream.jsonl"
        line = json.dumps(PLAIN).encode()
        path.write_bytes(b"\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf\n")
        assert list(read_jsonl(path)) == [record(), record()]

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(StreamError, match="cannot read records from"):
            list(read_jsonl(tmp_path / "none.jsonl"))

    def test_the_shared_data_read(self, shared: Path) -> None:
        path = shared / "data" / "clinc150" / "banking" / "train.jsonl"
        if not path.exists():
            pytest.skip("no clinc150 in ../shared/data")
        records = list(read_jsonl(path, split="train"))
        assert len(records) == 600
        assert {each.domain for each in records} == {"banking"}
