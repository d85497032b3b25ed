"""The audit log in a folder and in a bucket: added to only, bounded, and whole whatever is lost meanwhile."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from registry import audit
from registry.audit import AuditLog
from registry.errors import RegistryError
from registry.key_form import mint
from registry.registry import Registry
from registry.storage import Storage
from tests.registry.places import files

START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(registry: Registry) -> AuditLog:
    seconds = count()
    return AuditLog(registry.storage, lambda: START + timedelta(seconds=next(seconds)))


def test_acts_are_told_newest_first(log: AuditLog, registry: Registry) -> None:
    assert list(log.newest(5)) == []
    for place in range(5):
        act = log.begin("0123456789ab", f"DELETE /v1/domains/{place}")
        if place != 3:
            log.end(act, "200")
    told = list(AuditLog(registry.storage).newest(3))
    assert [each.what[-1] for each in told] == ["4", "3", "2"]
    assert [each.outcome for each in told] == ["200", None, "200"]
    assert told[0].at == START + timedelta(seconds=4) and told[0].who == "0123456789ab"


def test_no_act_names_a_key(log: AuditLog, registry: Registry) -> None:
    text = mint()
    log.end(log.begin(text, f"POST /v1/keys/{text}\nrotate"), f"404 {text}")
    (told,) = log.newest(1)
    secret = text.split("-")[2]
    for path in (files(registry) / "audit").iterdir():
        assert secret[:16] not in path.read_text()
    assert "\n" not in told.what and secret[:16] not in str(told)


def test_what_is_no_text_and_too_long_is_recorded_all_the_same(log: AuditLog) -> None:
    log.begin("k", "DELETE /v1/domains/\udc80" + "x" * 5_000)
    (told,) = log.newest(1)
    assert told.what.startswith("DELETE /v1/domains/?") and len(told.what) == 300


def test_the_oldest_go_beyond_the_bound(log: AuditLog, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KEPT_FILES", 10)
    monkeypatch.setattr(audit, "_LOOKED_AFTER", 4)
    for place in range(21):
        log.end(log.begin("k", str(place)), "200")
    kept = [each.what for each in log.newest(100)]
    # What was added since the last look is beyond it, and acts have two files.
    assert kept[0] == "20" and 5 <= len(kept) <= 5 + 4
    assert kept == [str(place) for place in range(20, 20 - len(kept), -1)]


def test_a_damaged_act_hides_no_other(log: AuditLog, registry: Registry) -> None:
    for place in range(3):
        log.begin("k", str(place))
    path = sorted((files(registry) / "audit").iterdir(), key=str)[1]
    path.write_text(path.read_text().replace('"1"', '"7"'))
    told = list(log.newest(9))
    assert [each.what for each in told][::2] == ["2", "0"] and "not what was written" in told[1].what
    assert told[1].at == START + timedelta(seconds=1)


def test_what_can_t_be_recorded_is_not_begun_and_a_lost_outcome_is_logged(
    log: AuditLog, storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    act = log.begin("k", "DELETE /v1/domains/a")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._storage, "keep", full)
    with pytest.raises(RegistryError, match="No space left"):
        log.begin("k", "DELETE /v1/domains/b")
    with caplog.at_level(logging.ERROR):
        log.end(act, "200")
    assert act in caplog.text and "200" in caplog.text
