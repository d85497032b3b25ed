"""Parts are built from the options that settings inherit."""

from pathlib import Path

import pytest

from cluster import builders, names
from cluster.actor_group import LEARNER, _plans
from cluster.remote import AsyncRemote
from configs.loader import load
from configs.settings import Settings
from learning import calibration
from streaming.errors import StreamError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        "demo", [f"home={tmp_path}", "features.layers=[0]", "features.poolings=[mean]", "features.expansion=16"]
    )


def test_a_new_home_is_scaled_by_the_calibration_text(settings: Settings) -> None:
    made = builders.extractor(settings)
    assert made.options == settings.features and made.options.expansion == made.feature_dim == 16
    assert made.standardisation.name == calibration.name()


def test_spools_lie_below_the_home_where_that_is_chosen(settings: Settings) -> None:
    assert builders.spool_path(settings, 1) == settings.home / "spool" / "ingest-1.sqlite"


def test_what_is_kept_and_held_is_the_settings(settings: Settings) -> None:
    chosen = load("demo", [f"home={settings.home}", "registry.keep_versions=7", "ingest.spool_bytes=3000000"])
    assert builders.coordinator_options(chosen).keep_versions == 7
    assert builders.ingest_options(chosen).spool_bytes == 3_000_000


def test_the_gate_is_the_one_of_the_settings(settings: Settings) -> None:
    strict = Settings.model_validate({**settings.model_dump(), "gate": {"min_gain": 0.25}})
    assert builders.coordinator_options(strict).gate.min_gain == 0.25


def test_the_brokers_secrets_come_from_the_environment_and_from_files(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert builders.kafka_options(settings) is None
    login = ["security_protocol=SASL_SSL", "sasl_mechanism=SCRAM-SHA-512", f"ssl_cafile={tmp_path}/ca.pem"]
    files = [f"sasl_password_file={tmp_path}/word", f"ssl_certfile={tmp_path}/c", f"ssl_keyfile={tmp_path}/k"]
    sets = [f"stream.{each}" for each in ["kind=kafka", 'bootstrap="a:1"', *login, *files]]
    monkeypatch.delenv("ANABRANCH_KAFKA_USERNAME", raising=False)
    with pytest.raises(StreamError, match="ANABRANCH_KAFKA_USERNAME"):
        builders.kafka_options(load("demo", [f"home={tmp_path}", *sets]))
    for name, value in (("USERNAME", "ann"), ("PASSWORD", "old"), ("KEY_PASSWORD", "sesame")):
        monkeypatch.setenv(f"ANABRANCH_KAFKA_{name}", value)
    options = builders.kafka_options(load("demo", [f"home={tmp_path}", *sets]))
    assert options is not None and (options.sasl_username, options.ssl_key_password) == ("ann", "sesame")
    assert (options.ssl_cafile, options.ssl_certfile) == (f"{tmp_path}/ca.pem", f"{tmp_path}/c")
    (tmp_path / "word").write_text("new\n")
    assert options.password() == "new"
    assert options.client == "kafka-python"
    chosen = builders.kafka_options(load("demo", [f"home={tmp_path}", *sets, "ingest.client=librdkafka"]))
    assert chosen is not None and chosen.client == "librdkafka"


def test_a_meter_runs_where_keys_are_asked_for(settings: Settings) -> None:
    assert names.METER not in _plans(settings, LEARNER)
    public = load("demo", [f"home={settings.home}", "serving.host=0.0.0.0"])
    assert _plans(public, LEARNER)[names.METER].cpus == 0
    door = builders.access(public, "replica-0", AsyncRemote.named(names.METER))
    assert door.required and not builders.access(settings, "replica-0", AsyncRemote.named(names.METER)).required
