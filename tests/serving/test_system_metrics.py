"""The status as Prometheus text: the figures by name, and everything that is failing."""

from registry.manifest import BaseRevision
from serving.api import ActorStatus, DomainStatus, IngestStatus, ReplicaStatus, Stretch, SystemStatus, Waiting
from serving.system_metrics import render_metrics


def worker(name: str, **trouble: str) -> IngestStatus:
    lag = {f"t[{name[-1]}]": 7}
    counted = {
        "lag": lag,
        "spooled": 3,
        "spooled_bytes": 40,
        "full": False,
        "polled": 5,
        "dead_letters": 1,
        "duplicates": 2,
    }
    return IngestStatus(name=name, partitions=("t[0]",), trouble=trouble, **counted)


def domain(name: str, state: str = "published", **more: object) -> DomainStatus:
    waiting = Waiting(train=4, held_out=1)
    told = {"domain": name, "state": state, "version": None, "examples": 9, "router_rows": 8, "waiting": waiting}
    return DomainStatus.model_validate({**told, **more})


def test_figures_and_every_trouble_of_everybody() -> None:
    status = SystemStatus(
        manifest=6,
        base=BaseRevision(model="test"),
        domains=(domain("cats", prequential=0.75, prequential_rows=8), domain("dogs", "failed")),
        ingest=(worker("ingest-0", polling="broker away", observing="router away"), worker("ingest-1", polling="x")),
        replicas={"r1": ReplicaStatus(manifest=6), "r2": ReplicaStatus(manifest=5, fenced="cut off", lag_seconds=7)},
        trouble="directory away",
    )
    lines = set(render_metrics(status).splitlines())
    assert lines >= {
        "anabranch_published_manifest_number 6.0",
        'anabranch_domain_examples{domain="cats"} 9.0',
        'anabranch_router_rows{domain="cats"} 8.0',
        'anabranch_domain_waiting_examples{domain="dogs"} 5.0',
        'anabranch_stream_lag_records{partition="t[0]"} 7.0',
        'anabranch_stream_lag_records{partition="t[1]"} 7.0',
        "anabranch_spool_rows 6.0",
        "anabranch_spool_bytes 80.0",
        "anabranch_ingest_polled_records 10.0",
        "anabranch_ingest_dead_letters_records 2.0",
        "anabranch_ingest_duplicates_records 4.0",
        'anabranch_replica_manifest_number{replica="r2"} 5.0',
        'anabranch_replica_lag_seconds{replica="r1"} 0.0',
        'anabranch_replica_lag_seconds{replica="r2"} 7.0',
        'anabranch_domain_lost_rows{domain="cats"} 0.0',
        'anabranch_prequential_accuracy{domain="cats"} 0.75',
    }
    assert not any(line.startswith('anabranch_prequential_accuracy{domain="dogs"}') for line in lines)
    where = {line.split('"')[1] for line in lines if line.startswith("anabranch_trouble{")}
    assert where == {"coordinator", "ingest-0 polling", "ingest-0 observing", "ingest-1 polling", "dogs", "r2"}


def test_a_system_without_trouble_tells_of_none() -> None:
    quiet = SystemStatus(manifest=0, base=BaseRevision(model="test"), domains=(), ingest=(), replicas={})
    assert "anabranch_trouble{" not in render_metrics(quiet)


def test_what_is_lost_is_told_until_it_is_there_again() -> None:
    gaps = [Stretch(partition=f"t[{n}]", first=first, last=9, rows=rows) for n, first, rows in ((0, 5, 0), (0, 2, 0))]
    lost = [Stretch(partition="t[1]", first=0, last=9, rows=rows) for rows in (3, 4)]
    cats = domain("cats").model_copy(update={"lost": tuple(lost)})
    status = SystemStatus(
        manifest=0, base=BaseRevision(model="test"), domains=(cats,), ingest=(), replicas={}, unread=tuple(gaps)
    )
    lines = set(render_metrics(status).splitlines())
    assert lines >= {
        'anabranch_domain_lost_rows{domain="cats"} 7.0',
        'anabranch_stream_unread_offsets{partition="t[0]"} 13.0',
        'anabranch_trouble{where="cats lost"} 1.0',
        'anabranch_trouble{where="stream t[0]"} 1.0',
    }
    assert len(list(status.troubles())) == 4


def test_every_actor_is_told_and_who_is_not_up_is_trouble() -> None:
    actors = (
        ActorStatus(name="router", state="up", restarts=3, progress_seconds=0.5),
        ActorStatus(name="ingest-0", state="lost", restarts=1),
        ActorStatus(name="learner-1", state="starting"),
    )
    status = SystemStatus(
        manifest=0, base=BaseRevision(model="test"), domains=(), ingest=(), replicas={}, actors=actors
    )
    lines = set(render_metrics(status).splitlines())
    assert lines >= {
        'anabranch_actor_up{actor="router"} 1.0',
        'anabranch_actor_up{actor="ingest-0"} 0.0',
        'anabranch_actor_up{actor="learner-1"} 0.0',
        'anabranch_actor_restarts_total{actor="router"} 3.0',
        'anabranch_actor_restarts_total{actor="learner-1"} 0.0',
        'anabranch_actor_progress_seconds{actor="router"} 0.5',
        'anabranch_trouble{where="ingest-0"} 1.0',
        'anabranch_trouble{where="learner-1"} 1.0',
    }
    assert not any(line.startswith('anabranch_actor_progress_seconds{actor="ingest-0"}') for line in lines)
    assert not any(line.startswith('anabranch_trouble{where="router"}') for line in lines)
    assert status.recovering() == "being recovered: ingest-0 (lost, being started again), learner-1 (being started)"
