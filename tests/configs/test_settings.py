"""The tree: documented to the last field, closed, frozen, and free of contradictions."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.choice import sections_of
from configs.settings import Settings

MINIMAL: dict[str, Any] = {"name": "a", "base": {"model": "owner/model"}}


def test_little_is_required() -> None:
    settings = Settings.model_validate(MINIMAL)
    assert settings.stream.topic == "anabranch"
    assert settings.features.depths(5) == (0, 2) and max(settings.features.depths(5)) <= settings.learner.frozen_layers


def test_every_field_of_every_section_says_what_it_does() -> None:
    for name, field in Settings.model_fields.items():
        sections = sections_of(field).values()
        assert sections or field.description, name
        for section in sections:
            assert section.__doc__, name
            for key, inner in section.model_fields.items():
                assert inner.description and inner.description.endswith("."), f"{name}.{key}"


def test_spools_are_bounded_and_versions_kept_by_default() -> None:
    settings = Settings.model_validate(MINIMAL)
    assert settings.ingest.spool_bytes == 2 << 30 and settings.ingest.spool_folder is None
    assert settings.registry.keep_versions == 3
    with pytest.raises(ValidationError):
        Settings.model_validate(MINIMAL | {"registry": {"keep_versions": 0}})


def test_frozen_all_the_way_down() -> None:
    settings = Settings.model_validate(MINIMAL)
    with pytest.raises(ValidationError):
        settings.name = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        settings.learner.rank = 3  # type: ignore[misc]
    assert isinstance(settings.features.poolings, tuple)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"learner": {"rank": 64}}, "learner.rank"),
        ({"features": {"layers": [0, 3]}}, "features.layers"),
        ({"features": {"layers": [1, 1]}}, "layers"),
        ({"features": {"poolings": ["mean", "mean"]}}, "poolings"),
        ({"features": {"max_tokens": 4096}}, "features.max_tokens"),
        ({"features": {"device": "cuda"}}, "ingest.num_gpus"),
        ({"features": {"device": "cuda"}, "ingest": {"num_gpus": 0.1}}, "serving.num_gpus"),
        ({"learner": {"max_tokens": 4096}}, "learner.max_tokens"),
        ({"learner": {"device": "cuda"}}, "num_gpus"),
        ({"learner": {"num_gpus": 1}}, "num_gpus"),
        ({"learner": {"patience": 2, "evaluate_every": 50, "max_steps": 50}}, "evaluate_every"),
        ({"learner": {"warmup_steps": 10, "max_steps": 10, "evaluate_every": 5}}, "warmup_steps"),
        ({"ingest": {"spool_bytes": 2_000_000, "max_record_bytes": 2_000_001}}, "spool_bytes"),
        ({"stream": {"kind": "kafka"}}, "bootstrap"),
        ({"stream": {"bootstrap": "localhost:9092"}}, "bootstrap"),
        ({"stream": {"security_protocol": "SASL_SSL"}}, "sasl_mechanism"),
        ({"stream": {"sasl_mechanism": "PLAIN"}}, "security_protocol"),
        ({"stream": {"ssl_certfile": "a.pem"}}, "ssl_keyfile"),
        ({"stream": {"ssl_key_password_file": "word"}}, "ssl_key_password_file"),
        ({"stream": {"sasl_password_file": "word"}}, "sasl_password_file"),
        ({"stream": {"kind": "kafka", "bootstrap": "a:1", "ssl_cafile": "ca.pem"}}, "security_protocol"),
        ({"stream": {"session_timeout_ms": 9000, "max_poll_interval_ms": 8000}}, "session_timeout_ms"),
        ({"closing": {"count": None, "quiet_seconds": None}}, "quiet_seconds"),
        ({"registry": {"keep_snapshots": 5, "keep_manifests": 3}}, "keep_manifests"),
        ({"serving": {"max_loras": 8, "max_cpu_loras": 4}}, "max_cpu_loras"),
    ],
)
def test_contradictions_are_refused_at_a_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(MINIMAL | change)
    (problem,) = caught.value.errors()
    assert problem["type"] == "disagreement"
    assert problem["ctx"]["path"] == key


def test_another_model_may_make_features_of_any_layer_and_length() -> None:
    features = {"model": "owner/encoder", "layers": [6], "max_tokens": 4096}
    settings = Settings.model_validate(MINIMAL | {"features": features})
    assert settings.features.depths(6) == (6,)
    assert Settings.model_validate(MINIMAL | {"features": {"model": "owner/encoder"}}).features.depths(6) == (6,)


def test_braces_in_a_value_do_not_break_the_message() -> None:
    with pytest.raises(ValidationError, match=r"\{topic\}"):
        Settings.model_validate(MINIMAL | {"stream": {"bootstrap": "{topic}"}})


def test_reading_settings_imports_nothing_heavy(repository: Path) -> None:
    code = (
        "import sys; from configs.loader import load; load('demo'); "
        "print([name for name in ('torch', 'ray', 'vllm', 'numpy', 'kafka', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_method_of_one_lane_has_one_worker() -> None:
    assert Settings.model_validate(MINIMAL | {"learner": {"kind": "seta"}}).learner.one_lane
    with pytest.raises(
        ValidationError, match="expected 1 or 0-1 because kind is seta, which trains one after another, got 2"
    ):
        Settings.model_validate(MINIMAL | {"learner": {"kind": "seta", "workers": 2}})
    with pytest.raises(ValidationError, match="a domain needs its own"):
        Settings.model_validate(MINIMAL | {"learner": {"kind": "seta", "rank": 8, "shared_rank": 8}})


@pytest.mark.parametrize(
    ("host", "keys", "required"),
    [
        ("127.0.0.1", "auto", False),
        ("127.8.9.1", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("192.168.1.7", "auto", True),
        ("localhost.example.org", "auto", True),
        ("127.0.0.1", "required", True),
        ("0.0.0.0", "disabled", False),
    ],
)
def test_keys_are_required_wherever_others_come_unless_that_is_switched_off(
    host: str, keys: str, required: bool
) -> None:
    settings = Settings.model_validate({**MINIMAL, "serving": {"host": host, "access": {"keys": keys}}})
    assert settings.serving.keys_required is required


@pytest.mark.parametrize(
    "access",
    [
        {"keys": "on"},
        {"metrics": "closed"},
        {"origins": ["chat.example.org"]},
        {"origins": ["https://chat.example.org/"]},
        {"origins": ["https://*.example.org"]},
        {"body_seconds": 0},
        {"request_seconds": -1},
        {"key": "ab-1"},
    ],
)
def test_access_is_checked(access: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({**MINIMAL, "serving": {"access": access}})
