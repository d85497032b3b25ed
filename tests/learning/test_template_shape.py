"""A template that only places contents renders by its roles what the engine renders; every other one is left to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from learning.template_shape import Shapes, places_only

PLACES = [
    "{{ bos_token }}{{ messages[-1]['content'] }}\n",
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}{% endfor %}",
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'sys\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{% for m in messages[1:] %}{% if m.role == 'tool' %}{% continue %}{% elif m.role in ['user'] %}U {{ m.content }}"
    "{% else %}O {{ m.content ~ eos_token }}{% endif %}\n{% endfor %}{{ messages | length }}",
    "{% for m in messages %}{{ m['content'] if m['role'] == 'user' else '' }}{{ loop.index }}{% endfor %}",
]
LEFT = [
    "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "{% for m in messages %}{% if m['content'] %}{{ m['content'] }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if 'x' in m.content %}a{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% set c = m.content %}{{ c }}{% endfor %}",
    "{% for m in messages %}{{ m.content.strip() }}{% endfor %}",
    "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
    "{% for m in messages %}{{ m }}{% endfor %}",
    "{% for m in messages if m.content %}{{ m.content }}{% endfor %}",
    "{% for m in messages | reverse %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if loop.changed(m.content) %}{{ m.content }}{% endif %}{% endfor %}",
    "{% for m in messages %}{% if loop.previtem.content %}x{% endif %}{{ m.content }}{% endfor %}",
    "{% for k in messages[0] %}{{ k }}{% endfor %}",
    "{{ messages }}",
    "{{ messages[0] }}",
    "{{ messages[messages[0].content]['content'] }}",
    "{{ strftime_now('%d') }}{{ messages[0].content }}",
    "{% macro f(x) %}{{ x }}{% endmacro %}{{ f(messages[0].content) }}",
    "{% filter upper %}{{ messages[0].content }}{% endfilter %}",
    "{{ messages[0].content * 2 }}",
    "{{ messages[0].content == 'a' }}",
    "{{ messages[0].content is defined }}",
    "{{ raise_exception('no') }}",
    "{% for messages in messages %}{{ messages.content }}{% endfor %}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{% broken",
]
CONTENTS = st.one_of(st.text(max_size=20), st.sampled_from(["{{ x }}", "<1>", "", " a ", "ü\n", "{% raw %}"]))
TALKS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENTS}),
    min_size=1,
    max_size=5,
)


def engine(template: str) -> Any:
    def render(messages: Sequence[dict[str, str]]) -> str:
        rendered, _ = render_jinja_template(
            [messages], chat_template=template, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )
        return str(rendered[0])

    return render


@pytest.mark.parametrize("template", PLACES)
def test_what_only_places_contents_is_rendered_as_the_engine_does(template: str) -> None:
    asked: list[int] = []
    real = engine(template)

    def counted(messages: Sequence[dict[str, str]]) -> str:
        asked.append(len(messages))
        return str(real(messages))

    shapes = Shapes(template, counted)
    assert places_only(template)

    @settings(max_examples=60, deadline=None)
    @given(TALKS)
    def check(talk: list[dict[str, str]]) -> None:
        assert shapes.render(talk) == real(talk)
        before = len(asked)
        again = [{**message, "content": message["content"] + "!"} for message in talk]
        assert shapes.render(again) == real(again) and len(asked) == before
        prompt = talk[0]["content"]
        assert shapes.render(prompt) == real([{"role": "user", "content": prompt}])

    check()


@pytest.mark.parametrize("template", LEFT)
def test_what_does_more_is_left_to_the_engine(template: str) -> None:
    assert not places_only(template)
    shapes = Shapes(template, engine(template))
    assert shapes.render([{"role": "user", "content": "a"}]) is None and shapes.render("a") is None


def test_what_the_engine_refuses_is_asked_of_it_each_time() -> None:
    def refuses(_messages: Any) -> str:
        raise ValueError("roles must alternate")

    assert Shapes(PLACES[1], refuses).render([{"role": "user", "content": "a"}]) is None


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "a", "name": "b"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": ["user"], "content": "a"},
        {"content": "a", "name": "b"},
    ],
)
def test_messages_of_another_make_are_left_to_the_engine(message: dict[str, Any]) -> None:
    assert Shapes(PLACES[1], engine(PLACES[1])).render([message]) is None


def test_shapes_are_bounded() -> None:
    shapes = Shapes(PLACES[1], engine(PLACES[1]))
    for number in range(600):
        assert shapes.render([{"role": f"r{number}", "content": "a"}]) == f"<r{number}>a"
    assert len(shapes._known) <= 256
