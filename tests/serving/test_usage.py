"""Tokens of answers, as engines tell them: of one choice, of several, of a batch, to the end or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.usage import Tally


def event(index: int | None, prompt: int, answer: int, **more: Any) -> str:
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    choices = [] if index is None else [{"index": index, "text": "x"}]
    return f"data: {json.dumps({'id': 'a', 'choices': choices, 'usage': usage, **more})}\n\n"


def tally(**body: Any) -> tuple[Tally, list[int]]:
    spent: list[int] = []
    return Tally({"stream": True, **body}, spent.append), spent


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": True}])
def test_a_stream_is_asked_for_its_usage_which_is_not_shown(options: dict[str, Any] | None) -> None:
    counting, spent = tally(**({} if options is None else {"stream_options": options}))
    assert counting.body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    shown = counting.seen(event(0, 7, 1))
    assert shown is not None and json.loads(shown[6:]) == {"id": "a", "choices": [{"index": 0, "text": "x"}]}
    assert counting.seen(event(None, 7, 5)) is None
    assert counting.seen("data: [DONE]\n\n") == "data: [DONE]\n\n"
    counting.ended()
    counting.ended()
    assert spent == [12]


def test_what_the_client_asked_to_see_is_shown() -> None:
    counting, _ = tally(stream_options={"include_usage": True, "continuous_usage_stats": True})
    for each in (event(0, 7, 1), event(None, 7, 5)):
        assert counting.seen(each) == each
    counting, _ = tally(stream_options={"include_usage": True})
    assert counting.seen(event(None, 7, 5)) == event(None, 7, 5)
    assert "usage" not in str(counting.seen(event(0, 7, 1)))


@pytest.mark.parametrize("body", [{"stream": False}, {"stream": "no"}, {"stream_options": 3}, {"stream_options": "x"}])
def test_what_is_no_stream_or_none_that_the_engine_takes_is_asked_as_it_is(body: dict[str, Any]) -> None:
    counting, _ = tally(**body)
    assert counting.body == {"stream": True, **body}


def test_a_stream_that_is_left_counts_each_prompt_once_and_each_answer() -> None:
    counting, spent = tally(n=2)
    for each in (event(0, 7, 1), event(1, 7, 1), event(0, 7, 2), event(3, 4, 1), event(1, 7, 9)):
        counting.seen(each)
    counting.ended()
    assert spent == [7 + 4 + 2 + 9 + 1]


@pytest.mark.parametrize(
    "strange",
    [
        'data: {"error": {"message": "usage", "code": 503}}\n\n',
        'data: {"usage": null, "choices": []}\n\n',
        'data: {"usage": {}, "choices": null}\n\n',
        ': a comment with "usage"\n\n',
    ],
)
def test_other_events_go_by(strange: str) -> None:
    counting, spent = tally()
    assert counting.seen(strange) == strange
    counting.ended()
    assert spent == [0]
