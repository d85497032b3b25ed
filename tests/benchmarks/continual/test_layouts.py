"""Tasks read from every layout, their parts and limits, and what is said of bad ones."""

import json
from pathlib import Path

import pytest

from benchmarks.continual.layouts import find_tasks
from benchmarks.continual.tasks import Limits, read_tasks
from cluster.errors import ClusterError
from learning.template import PromptTemplate
from tests.benchmarks.continual.small_stream import write_stream
from tests.learning.bases import TEMPLATE, write_tokenizer


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> PromptTemplate:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return PromptTemplate(str(folder), TEMPLATE, "\n")


def test_rows_are_parted_the_same_way_each_time(tmp_path: Path, template: PromptTemplate) -> None:
    write_stream(tmp_path)
    some, same = (read_tasks(tmp_path, template, limits=Limits(held_out=0.25)) for _ in range(2))
    assert some == same and [task.name for task in some] == ["heat", "place", "size"]
    heat = some[0]
    assert len(heat.train) + len(heat.held_out) == 40 and len(heat.test) == 8
    assert not {row.id for row in heat.train} & {row.id for row in heat.held_out}
    assert 3 <= len(heat.held_out) <= 17
    assert heat.test[0].prompt == "<s>heat 1000 red\n" and heat.test[0].completion == "warm"


def test_limits_take_fewer_rows_from_all_over_the_file(tmp_path: Path, template: PromptTemplate) -> None:
    write_stream(tmp_path)
    (whole,) = read_tasks(tmp_path, template, ["heat"], Limits(held_out=0.25))
    (few,) = read_tasks(tmp_path, template, ["heat"], Limits(20, 3, 0.25))
    assert len(few.train) + len(few.held_out) == 20 and len(few.test) == 3
    assert set(few.train) <= set(whole.train) and set(few.held_out) <= set(whole.held_out)
    numbers = [int(row.id.split("-")[-1]) for row in few.train]
    assert numbers == sorted(numbers) and max(numbers) > 20


def test_metrics_come_from_the_option_then_the_folder_then_the_layout(tmp_path: Path, template: PromptTemplate) -> None:
    write_stream(tmp_path)
    (tmp_path / "tasks.json").write_text(json.dumps({"heat": {"metric": "rouge_l"}, "size": {"metric": "sari"}}))
    tasks = read_tasks(tmp_path, template, metrics={"size": "edit_similarity"}, limits=Limits(held_out=0.25))
    assert [task.metric for task in tasks] == ["rouge_l", "exact", "edit_similarity"]


def test_the_stream_of_the_examples_is_read(repository: Path, template: PromptTemplate) -> None:
    tasks = read_tasks(repository / "examples" / "stream", template)
    assert len(tasks) == 9
    assert all(len(task.train) + len(task.held_out) == 500 and len(task.test) == 80 for task in tasks)


def test_traces_layout(tmp_path: Path, template: PromptTemplate) -> None:
    for task in ("FOMC", "MeetingBank", "Py150", "ScienceQA", "20Minuten"):
        (tmp_path / task).mkdir()
        for split in ("train", "eval", "test"):
            rows = [{"prompt": f"What? {split} {number}", "answer": f"A{number}"} for number in range(30)]
            (tmp_path / task / f"{split}.json").write_text(json.dumps(rows))
    tasks = {task.name: task for task in read_tasks(tmp_path, template)}
    assert {name: task.metric for name, task in tasks.items()} == {
        "FOMC": "exact",
        "MeetingBank": "rouge_l",
        "Py150": "edit_similarity",
        "ScienceQA": "first_character",
        "20Minuten": "sari",
    }
    assert tasks["FOMC"].test[3].prompt == "<s>What? test 3\n" and tasks["FOMC"].test[3].completion == "A3"


@pytest.fixture
def olora(tmp_path: Path) -> Path:
    for kind, name, labels in (("SC", "yelp", ["bad", "good"]), ("COPA", "COPA", ["A", "B"])):
        folder = tmp_path / kind / name
        folder.mkdir(parents=True)
        (folder / "labels.json").write_text(json.dumps(labels))
        for split in ("train", "test"):
            rows = [{"sentence": f"Text: {split} {number}", "label": labels[number % 2]} for number in range(30)]
            (folder / f"{split}.json").write_text(json.dumps(rows))
    return tmp_path


def test_oloras_layout_and_its_prompt(olora: Path, template: PromptTemplate) -> None:
    copa, yelp = read_tasks(olora, template)
    asks = "What is the sentiment of the following paragraph? Choose one from the option.\n"
    assert yelp.test[1].prompt == f"<s>{asks}Option: bad, good \nText: test 1\nAnswer:\n"
    assert copa.test[0].prompt == "<s>Text: test 0\nAnswer:\n"
    assert yelp.test[1].completion == "good"


def test_the_prefix_that_tells_the_task_comes_by_request_only(olora: Path, template: PromptTemplate) -> None:
    (yelp,) = read_tasks(olora, template, ["yelp"], prefixed=True)
    assert yelp.test[0].prompt.startswith("<s>Task:SC\nDataset:yelp\nWhat is the sentiment")
    (yelp,) = read_tasks(olora, template, ["yelp"])
    assert "Dataset:" not in yelp.test[0].prompt


def test_olora14_as_it_lies_beside_the_repository(shared: Path, template: PromptTemplate) -> None:
    (tasks,) = (read_tasks(shared / "data" / "olora14", template, ["CB", "COPA"]),)
    assert [len(task.train) + len(task.held_out) for task in tasks] == [250, 400]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_line_ends_where_json_lines_ends_it(tmp_path: Path, template: PromptTemplate, separator: str) -> None:
    write_stream(tmp_path)
    row = json.dumps({"input": f"red{separator}hot", "output": "warm"}, ensure_ascii=False)
    (tmp_path / "heat" / "test.jsonl").write_text(f"{row}\n{row}\n", encoding="utf-8")
    (task,) = read_tasks(tmp_path, template, ["heat"], Limits(held_out=0.25))
    assert [row.prompt for row in task.test] == [f"<s>red{separator}hot\n"] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("heat/train.jsonl", "no json\n", r"heat/train.jsonl, line 1: expected a JSON object, got 'no json'"),
        ("heat/train.jsonl", '{"input": "a"}\n', r"line 1: expected text under 'output'"),
        ("heat/test.jsonl", "", r"task heat: no rows to test by"),
        ("tasks.json", '{"heat": "exact"}', r"tasks.json: expected"),
        ("tasks.json", '{"heat": {"metric": "taste"}}', r"task heat: metric 'taste': expected one of"),
    ],
)
def test_bad_files_are_told_by_place(
    tmp_path: Path, template: PromptTemplate, name: str, content: str, message: str
) -> None:
    write_stream(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ClusterError, match=message):
        read_tasks(tmp_path, template, limits=Limits(held_out=0.25))


def test_missing_files_and_tasks_are_told(tmp_path: Path, template: PromptTemplate) -> None:
    with pytest.raises(ClusterError, match="expected tasks as"):
        find_tasks(tmp_path)
    write_stream(tmp_path)
    with pytest.raises(ClusterError, match=r"task 'taste': expected one of \['heat', 'place', 'size'\]"):
        read_tasks(tmp_path, template, ["taste"])
    (tmp_path / "heat" / "test.jsonl").unlink()
    with pytest.raises(ClusterError, match=r"expected .*heat/test.jsonl, got nothing there"):
        read_tasks(tmp_path, template)
