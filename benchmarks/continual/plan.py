"""What a run is asked for: data, base, methods, orders, seeds, and the settings that they are made with.

Settings are a YAML file: `prompt` (chat_template, terminator), `features` (`learning.feature_options`), `training`
(what all methods share of `learning.training_options`), `serving` (`serving.options.EngineKnobs`, for --serve),
`methods` and `routers` by name, each with its `kind` and settings of its own, and of a method `sweep`: values by
setting among which `--choose` chooses on held-out rows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.continual.cells import ROUTER, Course
from benchmarks.continual.tasks import Limits
from cluster.errors import ClusterError
from configs.document import parse, write_override
from configs.errors import ConfigError

SETTINGS = Path(__file__).parents[1] / "continual.yaml"
SWEEP = "sweep"
_SECTIONS = {"base", "prompt", "features", "training", "methods", "routers", "serving"}

ORDERS: dict[str, tuple[str, ...]] = {
    "trace-1": (
        *("C-STANCE", "FOMC", "MeetingBank", "Py150"),
        *("ScienceQA", "NumGLUE-cm", "NumGLUE-ds", "20Minuten"),
    ),
    "trace-2": (
        *("NumGLUE-cm", "NumGLUE-ds", "FOMC", "20Minuten"),
        *("C-STANCE", "Py150", "MeetingBank", "ScienceQA"),
    ),
    "olora-1": ("dbpedia", "amazon", "yahoo", "agnews"),
    "olora-2": ("dbpedia", "amazon", "agnews", "yahoo"),
    "olora-3": ("yahoo", "amazon", "agnews", "dbpedia"),
    "olora-4": (
        *("MNLI", "CB", "WiC", "COPA", "QQP", "BoolQA", "RTE", "IMDB"),
        *("yelp", "amazon", "SST-2", "dbpedia", "agnews", "MultiRC", "yahoo"),
    ),
    "olora-5": (
        *("MultiRC", "BoolQA", "WiC", "MNLI", "CB", "COPA", "QQP", "RTE"),
        *("IMDB", "SST-2", "dbpedia", "agnews", "yelp", "amazon", "yahoo"),
    ),
    "olora-6": (
        *("yelp", "amazon", "MNLI", "CB", "COPA", "QQP", "RTE", "IMDB"),
        *("SST-2", "dbpedia", "agnews", "yahoo", "MultiRC", "BoolQA", "WiC"),
    ),
}
"""Orders of published tables, by name."""


@dataclass(frozen=True)
class ContinualPlan:
    """All that the figures of a run depend on, but for the machine, and where its cells lie."""

    base: str
    data: Path
    work: Path
    orders: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]
    prompt: Mapping[str, Any]
    training: Mapping[str, Any]
    features: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    """Settings by label; `kind` among them."""
    routers: Mapping[str, Mapping[str, Any]]
    limits: Limits = field(default_factory=Limits)
    metrics: Mapping[str, str] = field(default_factory=dict)
    prefixed: bool = False
    serving: Mapping[str, Any] = field(default_factory=dict)
    """Knobs of the engine that serves what was learned; no figure of learning depends on them."""
    held_out: bool = False
    """Whether held-out rows judge, as where settings are chosen, and not test rows."""
    known: Mapping[Course, Mapping[str, Any]] = field(default_factory=dict)
    """Courses that an earlier result holds (`benchmarks.continual.finished`)."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """All that some order has, each once."""
        return tuple(dict.fromkeys(itertools.chain.from_iterable(self.orders)))

    def courses(self) -> list[Course]:
        """All of them, whole orders first."""
        return [
            Course(label, order, seed)
            for order in range(len(self.orders))
            for seed in self.seeds
            for label in self.methods
        ]

    def facts(self, course: Course) -> dict[str, Any]:
        """What a course's figures depend on."""
        return {
            "base": Path(self.base).name,
            "method": dict(self.methods[course.label]),
            "order": list(self.orders[course.order]),
            "seed": course.seed,
            "prompt": dict(self.prompt),
            "training": dict(self.training),
            "features": dict(self.features),
            **{f"{ROUTER}{label}": dict(each) for label, each in self.routers.items()},
            "rows": [self.limits.train, self.limits.test, self.limits.held_out],
            "prefixed": self.prefixed,
            "metrics": dict(self.metrics),
            "judged_by": "held-out rows" if self.held_out else "test rows",
        }


def read_settings(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings file, with `a.b=c` overrides. Raises `ClusterError` where it is none, or one of them is none."""
    try:
        settings = parse(path.read_text(encoding="utf-8"), where=str(path))
        if not isinstance(settings, dict) or not isinstance(settings.get("methods"), dict):
            raise ClusterError(f"settings {path}: expected a section 'methods', got none")
        for override in overrides:
            write_override(settings, override)
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"settings {path}: expected a YAML file, got {error}") from None
    except ConfigError as error:
        raise ClusterError(str(error)) from None
    if unknown := sorted(set(settings) - _SECTIONS):
        raise ClusterError(f"settings {path}: expected sections {sorted(_SECTIONS)}, got {unknown} as well")
    return settings


def orders_of(named: Sequence[str], tasks: Sequence[str], count: int) -> tuple[tuple[str, ...], ...]:
    """The orders asked for: published ones by name, others as `a,b,c`; without any, the tasks as they are named and
    `count` - 1 more at random, the same in every run."""
    if named:
        return tuple(ORDERS.get(each, tuple(filter(None, each.split(",")))) for each in named)
    found = [tuple(tasks)]
    chance = random.Random(0)
    while len(found) < count:
        found.append(tuple(chance.sample(list(tasks), len(tasks))))
    return tuple(found)


def labelled(methods: Mapping[str, Mapping[str, Any]], chosen: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by a label that names those which a sweep is over.

    Raises `ClusterError` for a name that is not there.
    """
    found = {}
    for name in chosen or methods:
        if name not in methods:
            raise ClusterError(f"method {name!r}: expected one of {sorted(methods)}")
        settings = {key: value for key, value in methods[name].items() if key != SWEEP}
        swept = {key: settings.get(key) for key in methods[name].get(SWEEP, {})}
        found[label_of(name, swept)] = settings
    return found


def variants(name: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A method's settings at every combination of its sweep's values, by label; none where there is no sweep."""
    sweep = settings.get(SWEEP, {})
    plain = {key: value for key, value in settings.items() if key != SWEEP}
    combinations = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    return {label_of(name, each): {**plain, **each} for each in combinations} if sweep else {}


def label_of(name: str, swept: Mapping[str, Any]) -> str:
    """A method's name in tables and files.

    >>> label_of("lora", {"learning_rate": 0.01})
    'lora learning_rate=0.01'
    """
    return " ".join([name, *(f"{key}={value}" for key, value in swept.items())])
