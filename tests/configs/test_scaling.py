"""Numbers that may be ranges: of learners and replicas."""

from __future__ import annotations

from typing import Any

import pytest

from configs.errors import ConfigError
from configs.loader import load
from configs.scaling import Scaling


@pytest.mark.parametrize(
    ("written", "scale"), [("3", Scaling(3, 3)), ("1-4", Scaling(1, 4)), ("2-2", Scaling(2, 2)), ("'1 - 4'", None)]
)
@pytest.mark.parametrize("key", ["learner.workers", "serving.replicas"])
def test_a_number_or_a_range(key: str, written: str, scale: Scaling | None) -> None:
    section, name = key.split(".")
    if scale is None:
        with pytest.raises(ConfigError, match=key):
            load("demo", [f"{key}={written}"])
        return
    settings: Any = load("demo", [f"{key}={written}"])
    assert getattr(getattr(settings, section), name) == scale
    assert settings.model_dump(mode="json")[section][name] == scale.written()
    again = type(settings).model_validate_json(settings.model_dump_json(), strict=True)
    assert again == settings


@pytest.mark.parametrize("written", ["0", "-1", "4-1", "1.5", "true", "[1, 4]", "many", "0-0", "null", "1-", "1-2-3"])
@pytest.mark.parametrize("key", ["learner.workers", "serving.replicas"])
def test_what_is_neither_is_refused_in_one_line(key: str, written: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("demo", [f"{key}={written}"])
    assert key in str(caught.value) and "\n" not in str(caught.value)


def test_learners_may_go_down_to_none_and_replicas_may_not() -> None:
    assert load("demo", ["learner.workers=0-2"]).learner.workers == Scaling(0, 2)
    with pytest.raises(ConfigError, match=r"serving\.replicas"):
        load("demo", ["serving.replicas=0-2"])


def test_a_method_of_one_lane_has_one_learner_at_most() -> None:
    assert load("demo", ["learner.kind=seta", "learner.workers=0-1"]).learner.workers.most == 1
    with pytest.raises(ConfigError, match="0-2"):
        load("demo", ["learner.kind=seta", "learner.workers=0-2"])
