"""Centre and scale: rounding noise is no scale, and whatever they were fitted on, the router can be solved."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from learning.errors import LearningError
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.rls import StreamingRidge
from learning.standardisation import Standardisation
from tests.learning.bases import TEMPLATE

Rows = NDArray[np.float64]
PING = TEMPLATE.replace("{{ messages[-1]['content'] }}", "ping").replace("{{ '\\n' }}", "\n")
OPTIONS = FeatureOptions(layers=(0, 1, 2), poolings=("mean", "max", "std", "last"), expansion=256, max_tokens=100)
EPS = 2.0**-52


def noisy(magnitude: float, noise: float, count: int = 40) -> Rows:
    return magnitude + noise * np.random.default_rng(0).standard_normal(count)


def test_standardised_rows_have_mean_nought_and_scale_one() -> None:
    pooled = np.random.default_rng(0).standard_normal((50, 6)) * [1, 10, 100, 1, 1, 1] + 5
    pooled[:, 5] = 3.0
    fitted = Standardisation.of(pooled)
    standardised = fitted.apply(pooled)
    assert np.allclose(standardised.mean(axis=0), 0) and np.allclose(standardised[:, :5].std(axis=0), 1)
    assert np.array_equal(standardised[:, 5], np.zeros(50))


@pytest.mark.parametrize(
    ("column", "scaled"),
    [
        (np.full(40, 0.1), False),  # its mean is not 0.1 to the last digit
        (np.zeros(40), False),
        (np.full(40, -7e11), False),
        (noisy(1e8, 1e-7), False),  # a huge mean, a noise of some units in the last place
        (noisy(-1.0, 3 * EPS), False),
        (noisy(0.0, 20 * EPS), False),  # what sums of numbers near 1 leave when they cancel
        (noisy(1e8, 1.0), True),
        (noisy(0.0, 0.5), True),
        (noisy(1000.0, 0.02), True),
        (np.eye(40)[3], True),
    ],
    ids=["tenths", "zeros", "huge", "huge and noise", "noise", "cancelled", "huge and real", "plain", "fine", "one"],
)
def test_a_column_of_rounding_noise_is_not_blown_up(column: Rows, scaled: bool) -> None:
    beside = np.random.default_rng(1).standard_normal((40, 7))
    fitted = Standardisation.of(np.column_stack([beside, column]))
    assert bool(fitted.scale[-1] != 1.0) is scaled
    assert np.allclose(fitted.scale[:-1], beside.std(axis=0))
    if scaled:
        assert np.isclose(fitted.scale[-1], column.std())


def test_noise_beside_noise_is_no_scale_either() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal(64) * (1.0 + 4 * EPS * rng.standard_normal((40, 64)))
    fitted = Standardisation.of(rows)
    assert np.array_equal(fitted.scale, np.ones(64)) and np.abs(fitted.apply(rows)).max() < 1e-12
    assert np.array_equal(Standardisation.of(np.zeros((5, 3))).scale, np.ones(3))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, 1e100, -2e12])
def test_rows_without_a_sane_scale_are_refused(value: float) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 4))
    rows[7, 2] = value
    with pytest.raises(LearningError, match="expected finite numbers"):
        Standardisation.of(rows)


def test_unusable_rows_are_refused() -> None:
    with pytest.raises(LearningError, match="two rows or more"):
        Standardisation.of(np.ones((1, 4)))
    with pytest.raises(LearningError, match="standardising shape"):
        Standardisation.of(np.eye(4)).apply(np.ones((2, 5)))


def test_a_name_stands_for_the_values() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 4))
    fitted = Standardisation.of(rows)
    assert Standardisation.of(rows).digest == fitted.digest
    assert Standardisation(fitted.mean + 1e-16, fitted.scale * (1 + 1e-15)).digest != fitted.digest
    assert Standardisation.of(rows, name="a").digest == Standardisation.of(rows * (1 + 1e-15), name="a").digest == "a"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("count", [2, 40, 100])
def test_equal_prompts_give_no_scale(llama: Path, dtype: str, count: int) -> None:
    made = FeatureExtractor(str(llama), OPTIONS.model_copy(update={"dtype": dtype}))
    for prompt in (PING, PING * 5):
        assert np.array_equal(made.fit([prompt] * count).scale, np.ones(made.pooled_dim))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "fitted_on", [[PING] * 40, [PING, PING.replace("g", "h")], None], ids=["equal", "one letter", "calibration"]
)
def test_a_router_can_be_solved_whatever_the_scale_was_fitted_on(
    llama: Path, dtype: str, fitted_on: list[str] | None
) -> None:
    options = OPTIONS.model_copy(update={"dtype": dtype})
    made = FeatureExtractor(str(llama), options)
    if fitted_on is not None:
        made = FeatureExtractor(str(llama), options, None, made.fit(fitted_on))
    router = StreamingRidge(made.feature_dim, 1.0, fingerprint=made.fingerprint)
    prompts = {
        "ping": [PING] * 40,
        "dates": [f"<s>am {day}. Mai {1990 + day}\n" for day in range(1, 31)],
        "logs": [f"<s>[WARN] disk {number} at {number * 3} %\n" for number in range(30)],
    }
    for domain, texts in prompts.items():
        router.observe(made.extract(texts), [domain] * len(texts))
    weights = router.weights()
    for column, texts in enumerate(prompts[domain] for domain in weights.domains):
        assert (weights.scores(made.extract(texts)).argmax(axis=1) == column).mean() > 0.9
