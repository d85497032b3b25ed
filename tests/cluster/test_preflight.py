"""What is refused before anything starts, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import builders
from cluster.errors import ClusterError
from cluster.preflight import check_surroundings, free_port
from configs.loader import load
from configs.settings import Settings
from registry.audit import AuditLog
from registry.key_form import id_of, mint
from registry.keys import KeyStore


def settings(home: Path, *sets: str) -> Settings:
    return load("demo", [f"home={home}", *sets])


def refused(chosen: Settings) -> str:
    with pytest.raises(ClusterError) as caught:
        check_surroundings(chosen)
    return str(caught.value)


def test_a_sound_home_is_locked_and_freed(tmp_path: Path) -> None:
    lock = check_surroundings(settings(tmp_path))
    assert "another Anabranch" in refused(settings(tmp_path))
    lock.release()
    check_surroundings(settings(tmp_path)).release()


def test_a_first_key_is_taken_from_the_environment_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = mint()
    monkeypatch.setenv("ANABRANCH_FIRST_KEY", f" {text}\n")
    check_surroundings(settings(tmp_path)).release()
    store = KeyStore(builders.storage(settings(tmp_path)))
    assert store.read() == ()
    public = settings(tmp_path, "serving.host=0.0.0.0")
    for _ in range(2):
        check_surroundings(public).release()
        (key,) = store.read()
        assert key.id == id_of(text) and set(key.scopes) == {"infer", "ingest", "admin"} and key.domains is None
    (act,) = AuditLog(builders.storage(public)).newest(9)
    assert act.outcome == f"key {key.id}"
    store.revoke(key.id)
    check_surroundings(public).release()
    assert len(store.read()) == 1
    monkeypatch.setenv("ANABRANCH_FIRST_KEY", "a secret")
    line = refused(public)
    assert line.startswith("ANABRANCH_FIRST_KEY") and "openssl" in line and "a secret" not in line


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (["learner.frozen_layers=6"], "learner.frozen_layers"),
        (["learner.frozen_layers=9", "features.layers=[0, 7]"], "features.layers"),
    ],
)
def test_layers_that_the_base_has_not_are_named(tmp_path: Path, sets: list[str], key: str) -> None:
    assert refused(settings(tmp_path, *sets)).startswith(key)
    # The lock is free again: the right settings start at once.
    check_surroundings(settings(tmp_path)).release()


def test_a_base_without_layers_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(settings(tmp_path).base.model).iterdir():
        (base / file.name).write_bytes(file.read_bytes() if file.name != "config.json" else b"{}")
    assert "num_hidden_layers" in refused(settings(tmp_path / "home", f"base.model={base}"))


def test_a_home_of_0_1_is_refused_in_one_line(tmp_path: Path) -> None:
    snapshots = tmp_path / "registry" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "000001.safetensors").write_bytes(b"what 0.1 wrote")
    line = refused(settings(tmp_path))
    assert "0.1" in line and str(tmp_path) in line and "\n" not in line
    assert [path.name for path in snapshots.iterdir()] == ["000001.safetensors"]


def test_spools_that_are_no_spools_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """They are caches: the worker deletes them, and says so."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "ingest-0.sqlite").write_bytes(b"no database at all" * 100)
    check_surroundings(settings(tmp_path)).release()
    assert (tmp_path / "spool" / "ingest-0.sqlite").read_bytes().startswith(b"no database")


def test_one_port_for_several_replicas_on_one_machine_is_refused() -> None:
    with pytest.raises(ClusterError, match=r"^serving\.replica_port: expected 0"):
        free_port(load("demo", ["serving.port=0", "serving.replica_port=8100", "serving.replicas=1-2"]))
    assert free_port(load("demo", ["serving.port=0", "serving.replica_port=8100"])) > 0
    assert free_port(
        load("demo", ["serving.port=0", "serving.replica_port=8100", "serving.replicas=2", "ray.address=auto"])
    )
