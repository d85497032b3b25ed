"""A section of several makes: flat keys, told apart by kind, and mistakes named as in any other section."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import ValidationError

from configs import problems
from configs.choice import ByKind
from configs.problems import describe, known_keys
from configs.settings import LEARNERS, Section
from learning.methods import OPTIONS


class Round(Section):
    """A section of the default kind."""

    kind: Literal["round"] = "round"
    """Its kind."""
    radius: Annotated[int, Any] = 1
    """Its size."""


class Square(Section):
    """A section of another kind."""

    kind: Literal["square"] = "square"
    """Its kind."""
    side: int
    """Its size."""
    corners: tuple[int, ...] = ()
    """Its corners."""


class Shapes(Section):
    """A tree with a section of several kinds."""

    shape: Annotated[Round | Square, ByKind({"round": Round, "square": Square}, default="round")] = Round()
    """The section."""


def read(text: str) -> Shapes:
    return Shapes.model_validate_json(f'{{"shape": {text}}}', strict=True)


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "Settings", Shapes)
    monkeypatch.setattr(known_keys, "__defaults__", (Shapes, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", Round()),
        ('{"radius": 3}', Round(radius=3)),
        ('{"kind": "round", "radius": 3}', Round(radius=3)),
        ('{"kind": "square", "side": 2, "corners": [1, 2]}', Square(side=2, corners=(1, 2))),
    ],
)
def test_the_kind_chooses_the_section(text: str, expected: Section) -> None:
    found = read(text)
    assert found.shape == expected and type(found.shape) is type(expected)
    assert Shapes(shape=found.shape) == found == Shapes.model_validate_json(found.model_dump_json(), strict=True)
    assert found.model_dump()["shape"] == expected.model_dump()


@pytest.mark.usefixtures("shapes")
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"kind": "sqare"}', "f: shape.kind: expected 'round' or 'square', got 'sqare'; did you mean square?"),
        ('{"kind": "oval"}', "f: shape.kind: expected 'round' or 'square', got 'oval'; take one of these"),
        ('{"kind": null}', "f: shape.kind: expected 'round' or 'square', got 'None'; take one of these"),
        ('{"kind": ["round"]}', "f: shape.kind: expected 'round' or 'square', got \"['round']\"; did you mean round?"),
        ('{"kind": "square"}', "f: shape.side: expected an integer, got nothing; add this key"),
        ('{"kind": "square", "side": "2"}', "f: shape.side: expected an integer, got '2'; write it without quotes"),
        ('{"kind": "square", "side": 2, "corners": ["x"]}', "f: shape.corners.0: expected an integer, got 'x'"),
        ('{"radus": 2}', "f: shape.radus: unknown key, got 2; did you mean shape.radius?"),
        ("3", "f: shape: expected a section, got 3"),
        ("null", "f: shape: expected a section, got None"),
    ],
)
def test_a_mistake_is_one_line_with_the_key_as_it_is_written(text: str, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(text)
    assert describe(caught.value, "f", {}).startswith(line)


@pytest.mark.usefixtures("shapes")
def test_an_override_of_a_kinds_key_is_blamed() -> None:
    with pytest.raises(ValidationError) as caught:
        read('{"kind": "square", "side": true}')
    assert describe(caught.value, "f", {("shape", "side"): "shape.side=true"}).startswith(
        "--set shape.side=true: shape"
    )


def test_all_kinds_keys_are_known_once() -> None:
    assert list(known_keys(Shapes)) == ["shape", "shape.kind", "shape.radius", "shape.side", "shape.corners"]


def test_every_learning_method_has_its_section() -> None:
    assert LEARNERS.keys() == OPTIONS.keys()
    for kind, section in LEARNERS.items():
        assert issubclass(section, OPTIONS[kind]) and section.model_fields["kind"].default == kind
