"""The image is built from what is there, holds what runs, and gives nodes what a driver would."""

from pathlib import Path

import pytest

from cluster.runtime import _ENVIRONMENT
from tests.deploy.manifests import DEPLOY, REPOSITORY, compose, instructions, kubernetes, settings_of


def test_what_the_image_copies_is_in_the_repository() -> None:
    copied = [source for words in instructions() if words[0] == "COPY" for source in words[1:-1]]
    assert copied
    assert [source for source in copied if not (REPOSITORY / source).exists()] == []


def test_the_image_holds_every_package_of_the_project() -> None:
    copied = {source.rstrip("/") for words in instructions() if words[0] == "COPY" for source in words[1:-1]}
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_each_choice_of_extra_has_a_lock(extra: str) -> None:
    assert (REPOSITORY / "requirements" / f"{extra}.lock").is_file()


def test_what_only_these_tests_read_stays_out_of_the_image() -> None:
    (install,) = [
        " ".join(words) for words in instructions() if words[0] == "RUN" and "--no-deps" in words and "-r" in words
    ]
    for name in ("kubernetes-validate", "promql-parser"):
        assert name in install
        for lock in ("cpu.lock", "gpu.lock"):
            lines = (REPOSITORY / "requirements" / lock).read_text().splitlines()
            assert any(line.startswith(f"{name}==") for line in lines), f"{lock} does not name {name}"


def test_the_image_runs_the_command_as_an_ordinary_user() -> None:
    words = {line[0]: line[1:] for line in instructions()}
    assert words["USER"] == ["anabranch"]
    assert words["ENTRYPOINT"] == ["[anabranch]"]


def test_pods_run_as_the_user_of_the_image() -> None:
    made = next(words for words in instructions() if words[0] == "RUN" and "useradd" in words)
    user = int(made[made.index("--uid") + 1])
    cluster = kubernetes()["RayService", "anabranch"]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["runAsUser"] == user


def test_nodes_of_a_running_ray_have_its_environment_from_the_image() -> None:
    """A driver sets the same for a Ray that it starts itself; whether there is a token is each deployment's choice."""
    given = dict(word.split("=", 1) for words in instructions() if words[0] == "ENV" for word in words[1:])
    wanted = {name: value for name, value in _ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}
    assert wanted.items() <= given.items()


def test_scripts_may_be_run() -> None:
    for script in DEPLOY.glob("*.sh"):
        assert script.stat().st_mode & 0o111 == 0o111, script


def test_a_new_volume_of_spools_takes_owner_and_mode_from_the_image() -> None:
    """Docker copies both from the folder in the image, which therefore has to be there."""
    folder = settings_of(compose()["services"]["head"]["command"]).ingest.spool_folder
    assert isinstance(folder, Path)
    made = next(words for words in instructions() if words[0] == "RUN" and "useradd" in words)
    assert made.count(str(folder)) == 3 and "700" in made
    assert any(words[0] == "VOLUME" and str(folder) in words for words in instructions())
