"""Loading: presets, files, overrides; and for every mistake one line that says what, where and what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.loader import load, presets
from configs.scaling import Scaling

MINIMAL = "name: a\nbase:\n  model: owner/model\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "here.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def refusal(path: Path | str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("preset", ["cluster", "demo", "laptop", "one_gpu", "smollm2"])
def test_every_preset_loads(preset: str) -> None:
    settings = load(preset)
    assert settings.name == preset.replace("_", "-")
    assert settings.home.is_absolute()


def test_the_presets_are_those_promised() -> None:
    assert presets() == ("cluster", "demo", "laptop", "one_gpu", "smollm2")


def test_demo_fits_a_small_machine() -> None:
    demo = load("demo")
    assert demo.stream.kind == "embedded" and demo.ingest.workers == 1
    assert demo.learner.workers == demo.serving.replicas == Scaling(1, 1)
    assert demo.learner.num_gpus == demo.serving.num_gpus == 0
    reserved = demo.ingest.num_cpus + demo.router.num_cpus + demo.learner.num_cpus + demo.serving.num_cpus
    assert demo.ray.num_cpus is not None and reserved < demo.ray.num_cpus


def test_overrides_apply_in_order_and_are_read_as_yaml(write: Callable[[str], Path]) -> None:
    settings = load(
        write(MINIMAL),
        [
            "learner.rank=4",
            "learner.rank=8",
            "learner.learning_rate=3e-4",
            "features.layers=[0, 1]",
            "closing.count=null",
            "serving.engine.block_size=16",
            "base.chat_template=a=b",
        ],
    )
    assert settings.learner.rank == 8
    assert settings.learner.learning_rate == 3e-4
    assert settings.features.layers == (0, 1)
    assert settings.closing.count is None
    assert settings.serving.engine == {"block_size": 16}
    assert settings.base.chat_template == "a=b"


def test_exponents_without_a_point_are_numbers(write: Callable[[str], Path]) -> None:
    assert load(write(MINIMAL + "learner: {learning_rate: 1e-3}")).learner.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("learner: {rnk: 3}", ["learner.rnk: unknown key", "did you mean learner.rank?"]),
        ("learner: {ridge: 3}", ["learner.ridge: unknown key", "did you mean router.ridge?"]),
        ("lerner: {rank: 3}", ["lerner: unknown key", "did you mean learner?"]),
        ("zzz: 3", ["zzz: unknown key", "take one of name, home, base"]),
        ("learner: {rank: '8'}", ["learner.rank: expected an integer, got '8'", "without quotes"]),
        ("learner: {rank: 2.5}", ["learner.rank: expected an integer", "2.5"]),
        ("learner: {rank: true}", ["learner.rank: expected an integer", "True"]),
        ("learner: {rank: 0}", ["learner.rank", "greater than or equal to 1", "got 0"]),
        ("learner: {rank: 64}", ["learner.rank: expected at most serving.max_lora_rank (16), got 64"]),
        ("stream: {kind: kafak}", ["stream.kind: expected 'embedded' or 'kafka', got 'kafak'", "did you mean kafka?"]),
        ("stream: {kind: zmq}", ["stream.kind: expected 'embedded' or 'kafka', got 'zmq'"]),
        ("stream: {topic: 12}", ["stream.topic: expected a string, got 12", "quote it"]),
        ("features: {layers: 3}", ["features.layers: expected a list, got 3"]),
        ("features: {layers: []}", ["features.layers: expected at least 1"]),
        ("features: {layers: [0, x]}", ["features.layers.1: expected an integer, got 'x'"]),
        ("learner: 3", ["learner: expected a section, got 3"]),
        ("gate: {min_gain: .nan}", ["gate.min_gain: expected a finite number"]),
        ("learner: {rnk: 1, alfa: 2}", ["learner.rnk", "(and 1 more problem)"]),
        ("learner: {kind: lora, rnk: 3}", ["learner.rnk: unknown key", "did you mean learner.rank?"]),
        ("learner: {kind: ewc}", ["learner.kind: expected 'lora' or 'seta' or 'osft', got 'ewc'; take one of these"]),
        (
            "learner: {kind: lroa}",
            ["learner.kind: expected 'lora' or 'seta' or 'osft', got 'lroa'; did you mean lora?"],
        ),
        ("learner: {warmup_steps: 2000}", ["learner.warmup_steps: expected less than max_steps (1000), got 2000"]),
        ("features: {standardise_examples: 256}", ["features.standardise_examples: unknown key, got 256; remove it:"]),
        ("router: {abstain_below: 0.3}", ["router.abstain_below: unknown key, got 0.3; remove it:", "router.keep"]),
        ("features: {max_tokens: 1}", ["features.max_tokens", "greater than or equal to 2"]),
        ("serving: {max_lora_rnk: 8}", ["did you mean serving.max_lora_rank?"]),
        ("serving: {max_loras: 20}", ["serving.max_cpu_loras: expected at least max_loras (20), got 16"]),
    ],
)
def test_a_wrong_value_is_one_line_with_file_key_and_remedy(
    write: Callable[[str], Path], text: str, parts: list[str]
) -> None:
    path = write(MINIMAL + text)
    line = refusal(path)
    assert line.startswith(f"{path}: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: a", "base: expected a section with model, got nothing; add this key"),
        ("base: {model: x}", "name: expected a string, got nothing; add this key"),
        ("", "expected"),
        ("- 1", "expected a mapping of sections, got a list"),
        ("just words", "expected a mapping of sections, got a str"),
    ],
)
def test_an_unfit_document_is_one_line(write: Callable[[str], Path], text: str, part: str) -> None:
    path = write(text)
    line = refusal(path)
    assert line.startswith(str(path)) and part in line


@pytest.mark.parametrize(
    ("text", "place"),
    [("a: [1", ":1:6"), ("name: a\nname: b", ":2:1"), ("1: 2", ":1:1"), ("a: !!python/object:os.system x", ":1:4")],
)
def test_unreadable_yaml_names_line_and_column(write: Callable[[str], Path], text: str, place: str) -> None:
    path = write(text)
    assert refusal(path).startswith(f"{path}{place}: not readable as YAML")


@pytest.mark.parametrize("text", ["a: \x00", "home: 2020-99-99"])
def test_odd_scalars_are_one_line_too(write: Callable[[str], Path], text: str) -> None:
    assert "not readable as YAML" in refusal(write(text))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("learner.rank", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("learner..rank=3", "expected KEY=VALUE"),
        ("base.model.x=3", "expected a section at base.model"),
        ("learner.rnk=9", "did you mean learner.rank?"),
        ("learner.rank=[1", "not readable as YAML"),
        ("name=A B", "expected a string"),
        ("name=\n", "expected"),
    ],
)
def test_a_wrong_override_is_named_instead_of_the_file(write: Callable[[str], Path], override: str, part: str) -> None:
    line = refusal(write(MINIMAL), (override,))
    assert line.startswith(f"--set {override.strip()}") and part in line


def test_a_disagreement_names_file_and_override(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL)
    assert refusal(path, ("learner.rank=99",)).startswith(f"{path} with --set learner.rank=99: learner.rank:")


def test_what_is_not_there(tmp_path: Path) -> None:
    assert "expected a preset (cluster, demo, laptop, one_gpu, smollm2) or a YAML file" in refusal("dmo")
    assert "got a folder" in refusal(tmp_path)
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\xff")
    assert "UTF-8" in refusal(binary)


class TestPaths:
    """Relative names are looked for beside the file, then in the current directory, then in the repository."""

    def test_beside_the_file_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "conf" / "tiny").mkdir(parents=True)
        (tmp_path / "tiny").mkdir()
        path = tmp_path / "conf" / "x.yaml"
        path.write_text("name: a\nbase: {model: tiny}\n")
        monkeypatch.chdir(tmp_path)
        assert load(path).base.model == str(tmp_path / "conf" / "tiny")
        assert load(path, ["base.model=tiny"]).base.model == str(tmp_path / "tiny")

    def test_current_directory_next(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "conf").mkdir()
        (tmp_path / "tiny").mkdir()
        path = tmp_path / "conf" / "x.yaml"
        path.write_text("name: a\nbase: {model: tiny}\n")
        monkeypatch.chdir(tmp_path)
        assert load(path).base.model == str(tmp_path / "tiny")

    def test_repository_last(self, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert load("demo", ["base.model=configs"]).base.model == str(repository / "configs")

    def test_a_hub_name_stays(self, write: Callable[[str], Path]) -> None:
        assert load(write(MINIMAL)).base.model == "owner/model"

    def test_home_and_certificates_become_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ca.pem").touch()
        path = tmp_path / "x.yaml"
        path.write_text(MINIMAL + "home: state\nstream: {ssl_cafile: ca.pem}\n")
        monkeypatch.chdir(tmp_path.parent)
        settings = load(path)
        assert settings.home == tmp_path.parent / "state"
        assert settings.stream.ssl_cafile == tmp_path / "ca.pem"


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("&x {rank: *x}", "one that holds itself"),
        ("&x [*x]", "one that holds itself"),
        ("[" * 3000, "levels at most"),
        ("[" * 100 + "]" * 100, "levels at most"),
        (
            "[&a [0,0,0,0,0,0,0,0,0,0]"
            + "".join(f", &{b} [{(f'*{a}, ' * 10)[:-2]}]" for a, b in ("ab", "bc", "cd", "de", "ef"))
            + "]",
            "100000 values",
        ),
        ('"\\ud83d"', "half of a surrogate pair"),
        ('{"\\ude00": 1}', "half of a surrogate pair"),
    ],
    ids=["mapping in itself", "list in itself", "unclosed", "deep", "many", "surrogate", "surrogate key"],
)
def test_values_that_only_yaml_can_say_are_refused_where_they_stand(
    write: Callable[[str], Path], value: str, named: str
) -> None:
    assert refusal(write(MINIMAL), (f"learner={value}",)).startswith("--set learner=")
    line = refusal(write(MINIMAL + f"learner: {value}\n"))
    assert "here.yaml" in line and named in line


@pytest.mark.parametrize("key", ["learner.seed", "features.seed", "learner.max_steps", "ingest.block_rows"])
def test_numbers_that_nothing_below_can_count_to_are_refused(write: Callable[[str], Path], key: str) -> None:
    line = refusal(write(MINIMAL), (f"{key}={10**30}",))
    assert f"{key}: expected a value less than or equal to" in line


def test_a_features_model_is_looked_for_as_the_base_is(write: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    here = write(MINIMAL + "features:\n  model: encoder\n")
    assert load(here).features.model == str(tmp_path / "encoder")
    assert load(here, ["features.model=owner/other"]).features.model == "owner/other"
    assert load(here, ["features.model=encoder"]).features.model == "encoder", "not beside the file it is not from"
    assert load(here, ["features.model=null"]).features.model is None


def test_another_kind_leaves_out_what_the_file_says_of_the_first() -> None:
    written, chosen = load("laptop").learner, load("laptop", ["learner.kind=osft", "learner.batch_size=4"]).learner
    assert (chosen.kind, chosen.adapter_rank, chosen.batch_size) == ("osft", 0, 4)
    assert (chosen.learning_rate, chosen.max_steps) == (written.learning_rate, written.max_steps)
    both = load("laptop", ["learner.kind=seta", "learner.shared_rank=4"]).learner
    assert (both.kind, both.adapter_rank) == ("seta", written.adapter_rank)


@pytest.mark.parametrize("override", ["learner.rank=8", "learner.patiance=8", "learner.shared_rank=4"])
def test_what_was_asked_for_of_another_kind_is_refused(override: str) -> None:
    assert override in refusal("laptop", (override, "learner.kind=osft"))


@pytest.mark.parametrize(
    ("overrides", "kind", "rank"),
    [
        (("learner.kind=lora", "learner={rank: 3}"), "lora", 3),
        (("learner={rank: 3}", "learner.kind=lora"), "lora", 3),
        (("learner={kind: lora}", "learner.rank=5"), "lora", 5),
    ],
)
def test_a_section_written_as_a_whole_has_nothing_of_the_file_left(
    write: Callable[[str], Path], overrides: tuple[str, ...], kind: str, rank: int
) -> None:
    here = write(f"{MINIMAL}learner: {{kind: seta, shared_rank: 4, rank: 8}}\n")
    learner = load(here, overrides).learner
    assert (learner.kind, learner.adapter_rank) == (kind, rank)
    line = refusal(here, ("learner.kind=lora", "learner=3"))
    assert "--set learner=3: learner: expected a section, got 3" in line


def test_a_key_of_another_kind_is_told_from_one_that_is_misspelt(write: Callable[[str], Path]) -> None:
    here = write(f"{MINIMAL}learner: {{kind: osft, rank: 8}}\n")
    assert "learner.rank: unknown key, got 8; another kind of learner has it" in refusal(here)
    assert "did you mean learner.ratio?" in refusal(write(f"{MINIMAL}learner: {{kind: osft, ratoi: 0.5}}\n"))
