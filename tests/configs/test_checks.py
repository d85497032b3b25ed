"""A folder that is named but not there is found before anything starts."""

from pathlib import Path

import pytest

from configs.checks import check_paths
from configs.errors import ConfigError
from configs.loader import load


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "examples/nothing", "~/nothing-here", "a/b/c"])
def test_a_missing_local_base_is_one_line(model: str) -> None:
    with pytest.raises(ConfigError, match=r"^one-gpu: base.model: expected a folder .* correct the path$"):
        check_paths(load("one_gpu", [f"base.model={model}"]))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a config.json"):
        check_paths(load("one_gpu", [f"base.model={tmp_path}"]))


def test_a_hub_name_and_a_model_folder_pass(tmp_path: Path) -> None:
    check_paths(load("one_gpu"))
    (tmp_path / "config.json").write_text("{}")
    check_paths(load("one_gpu", [f"base.model={tmp_path}"]))


def test_a_missing_certificate_is_found(tmp_path: Path) -> None:
    settings = load("one_gpu", [f"stream.ssl_cafile={tmp_path}/ca.pem"])
    with pytest.raises(ConfigError, match=r"stream.ssl_cafile: expected a file"):
        check_paths(settings)


def test_a_missing_password_file_is_found(tmp_path: Path) -> None:
    login = ["stream.security_protocol=SASL_SSL", "stream.sasl_mechanism=PLAIN"]
    settings = load("one_gpu", [*login, f"stream.sasl_password_file={tmp_path}/word"])
    with pytest.raises(ConfigError, match=r"stream.sasl_password_file: expected a file"):
        check_paths(settings)


def test_the_features_model_is_looked_for_as_well(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^one-gpu: features.model: expected a folder .* correct the path$"):
        check_paths(load("one_gpu", ["features.model=./nowhere"]))
    check_paths(load("one_gpu", ["features.model=owner/encoder"]))
