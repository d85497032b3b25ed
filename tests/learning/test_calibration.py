"""The calibration text: many different prompts, the same for ever, and features that rest on it alone."""

from pathlib import Path

import numpy as np
import pytest

from learning import calibration
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.standardisation import Standardisation
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE

OPTIONS = FeatureOptions(layers=(0, 2), poolings=("mean", "std"), expansion=64, seed=5, max_tokens=100)


def test_the_text_never_changes() -> None:
    # Routers outlive versions: with another text every home made before is refused.
    expected = "3b4c9492345faac552af0788144f5c3412ef3b19a8a38d2d182e4848e71e7118"
    assert calibration.name() == f"calibration-{expected}"


def test_its_prompts_are_many_short_and_different() -> None:
    prompts = calibration.prompts()
    assert 256 <= len(prompts) == len(set(prompts)) <= 512
    assert all(prompt.strip() == prompt and 0 < len(prompt) < 400 for prompt in prompts)
    scripts = ("ü", "é", "ñ", "ł", "ş", "ч", "ζ", "म", "请", "の", "가")
    for sign in (*scripts, "def ", "SELECT", "{", "|---|", "GET ", "0x", "EUR"):
        assert any(sign in prompt for prompt in prompts), sign


def test_features_are_scaled_by_it_as_the_template_renders_it(llama: Path) -> None:
    template = PromptTemplate(str(llama), TEMPLATE)
    made = FeatureExtractor(str(llama), OPTIONS, template)
    rendered = [template.render([{"role": "user", "content": prompt}]) for prompt in calibration.prompts()]
    expected = FeatureExtractor(str(llama), OPTIONS, template, made.fit(rendered))
    texts = rendered[:9]
    assert np.array_equal(made.extract(texts), expected.extract(texts))
    bare = FeatureExtractor(str(llama), OPTIONS)
    assert not np.allclose(bare.extract(texts), expected.extract(texts))


@pytest.mark.parametrize(
    "chat_template",
    [
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('system first') }}{% endif %}" + TEMPLATE,
        "{{ messages[0]['content'] + messages[1]['content'] }}",
        "{% for m in messages if m['role'] == 'system' %}{{ m['content'] }}{% endfor %}",
        "<s>the same for all",
        "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + TEMPLATE,
    ],
    ids=["refuses a lone user", "wants two messages", "renders nothing", "loses the text", "tells the time"],
)
def test_a_template_that_is_not_made_for_a_lone_user_message_leaves_the_text_as_it_is(
    llama: Path, chat_template: str
) -> None:
    made = FeatureExtractor(str(llama), OPTIONS, PromptTemplate(str(llama), chat_template))
    bare = FeatureExtractor(str(llama), OPTIONS)
    assert np.array_equal(made.extract(["<s>rendered by hand"]), bare.extract(["<s>rendered by hand"]))
    assert made.fingerprint != bare.fingerprint


def test_the_fingerprint_stands_before_the_text_is_run_and_is_no_other_machines(llama: Path) -> None:
    made = FeatureExtractor(str(llama), OPTIONS)
    before = made.fingerprint
    fitted = made.standardisation
    assert made.fingerprint == before
    elsewhere = Standardisation(fitted.mean * (1 + 1e-15), fitted.scale, fitted.name)
    assert FeatureExtractor(str(llama), OPTIONS, None, elsewhere).fingerprint == before
    by_values = Standardisation(fitted.mean, fitted.scale)
    assert FeatureExtractor(str(llama), OPTIONS, None, by_values).fingerprint != before
