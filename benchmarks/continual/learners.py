"""The service's own learners as methods of the benchmark: jobs one after another, as the service would order them.

A job sees what docs/decisions/0020 says that it sees: the segments in service with their exams, the method's state and
the change of the base in force. All that a training leaves is taken in as one. Without the gate everything is, whatever
it costs other domains, so that a method's own forgetting is measured; with it, what the service would reject is left
out. Of a domain with several segments the newest one answers by name. Knows no method by name and no router.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.continual.method import Deployment, Learned, Task
from benchmarks.continual.workbench import Workbench
from learning.contract import Example, Incumbent, NewAdapter, Progress, TrainingJob, TrainingResult
from learning.gate import Gate
from learning.methods import OPTIONS
from learning.repeats import spread
from learning.training_options import TrainingOptions

_COURSE = "course.json"


@dataclass(frozen=True)
class _Placed:
    """A segment in service; its folder is named by its place below the method's."""

    domain: str
    segment: int
    adapter: str | None
    exam: tuple[Example, ...]


def of_service(workbench: Workbench, label: str, settings: Mapping[str, Any], seed: int, folder: Path) -> ServiceMethod:
    """One of `learning.methods`; `settings` are its options, its `kind`, and `gate: true` for the service's gate."""
    given = {key: value for key, value in settings.items() if key != "gate"}
    options = workbench.options(OPTIONS[str(settings["kind"])], given)
    return ServiceMethod(workbench, label, options, seed, folder, Gate() if settings.get("gate") else None)


class ServiceMethod:
    """A learner of the service with what it has in service, below `folder`, which it owns."""

    def __init__(
        self,
        workbench: Workbench,
        label: str,
        options: TrainingOptions,
        seed: int,
        folder: Path,
        gate: Gate | None = None,
    ) -> None:
        self.label = label
        self._workbench, self._options, self._seed, self._folder = workbench, options, seed, folder
        self._gate, self._exam_rows = gate, (gate or Gate()).exam_rows
        self._placed: tuple[_Placed, ...] = ()
        self._state: str | None = None
        self._delta: str | None = None
        self._jobs = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def has_one_model(self) -> bool:
        """One that makes no adapters changes the base for everybody."""
        return self._options.adapter_rank == 0

    def learn(self, task: Task, on_step: Callable[[int, int], None] = lambda step, steps: None) -> Learned:
        """One job of the service's, and its result taken in."""
        self._jobs += 1
        job = TrainingJob(
            domain=task.name,
            version=self._jobs,
            train=task.train,
            held_out=task.held_out,
            output=self._folder / f"job-{self._jobs}",
            seed=self._seed,
            incumbents=tuple(self._incumbent(each) for each in self._seen(task.name)),
            state=self._path(self._state),
            base_delta=self._path(self._delta),
        )

        def on_progress(progress: Progress) -> None:
            on_step(progress.step, progress.steps)

        result = self._workbench.learner(self._options).train(job, on_progress)
        result.check(job)
        return Learned(
            steps=result.steps,
            seconds=result.seconds,
            train_loss=result.train_loss,
            weights_trained=self._weights_trained(),
            failure=result.failure or self._take_in(task, result),
        )

    @contextmanager
    def answering(self, task: str) -> Iterator[nn.Module]:
        """The base, as it is changed, with the task's adapter on it."""
        revisable = self._workbench.model
        revisable.stand_on(self._path(self._delta))
        mine = [each for each in self._placed if each.domain == task]
        adapter = self._path(max(mine, key=lambda each: each.segment).adapter) if mine else None
        if adapter is None:
            yield revisable.model.train(False)
            return
        adapted = PeftModel.from_pretrained(revisable.model, str(adapter))
        try:
            yield adapted.train(False)
        finally:
            adapted.unload()
            revisable.model.requires_grad_(False).train(False)
            if hasattr(revisable.model, "peft_config"):
                del revisable.model.peft_config

    def stored_bytes(self) -> int:
        """Of all adapters in service, what several have in common counted once, of the state and of the change of the
        base; with the gate, of the exams as well."""
        adapters = {each.adapter for each in self._placed if each.adapter}
        others = {name for name in (self._state, self._delta) if name}
        exams = "".join(each.prompt + each.completion for placed in self._placed for each in placed.exam)
        return (
            distinct_bytes(file for name in adapters for file in sorted((self._folder / name).glob("*.safetensors")))
            + sum(tensor.nbytes for name in others for tensor in _tensors(self._folder / name))
            + (len(exams.encode()) if self._gate is not None else 0)
        )

    def deployments(self, folder: Path) -> Sequence[Deployment]:
        """One, of the adapters that answer by name and the base that they stand on."""
        newest = {each.domain: each.adapter for each in sorted(self._placed, key=lambda each: each.segment)}
        if not newest:
            return []
        adapters = {task: folder / f"adapter-{place}" for place, task in enumerate(newest) if newest[task]}
        for task, copy in adapters.items():
            shutil.copytree(self._folder / str(newest[task]), copy, ignore=_not_nested)
        delta = folder / "base" if self._delta else None
        if delta is not None:
            shutil.copytree(self._folder / str(self._delta), delta)
        return [Deployment(tuple(newest), adapters, delta)]

    def save(self, folder: Path) -> None:
        """What is in service, and where each part lies."""
        folder.mkdir(parents=True)
        for name in {each.adapter for each in self._placed} | {self._state, self._delta}:
            if name:
                shutil.copytree(self._folder / name, folder / name, ignore=_not_nested, dirs_exist_ok=True)
        course = {
            "jobs": self._jobs,
            "state": self._state,
            "base_delta": self._delta,
            "placed": [asdict(each) for each in self._placed],
        }
        (folder / _COURSE).write_text(json.dumps(course) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Takes a copy."""
        shutil.copytree(folder, self._folder, dirs_exist_ok=True)
        course = json.loads((folder / _COURSE).read_text(encoding="utf-8"))
        self._jobs, self._state, self._delta = course["jobs"], course["state"], course["base_delta"]
        self._placed = tuple(
            _Placed(
                each["domain"],
                each["segment"],
                each["adapter"],
                tuple(Example(**example) for example in each["exam"]),
            )
            for each in course["placed"]
        )

    def _seen(self, domain: str) -> tuple[_Placed, ...]:
        """A method of several lanes knows nothing of other domains."""
        return tuple(each for each in self._placed if self._options.one_lane or each.domain == domain)

    def _incumbent(self, placed: _Placed) -> Incumbent:
        return Incumbent(placed.domain, placed.segment, self._path(placed.adapter), placed.exam)

    def _take_in(self, task: Task, result: TrainingResult) -> str:
        """Returns why nothing of it was taken in, empty where it was."""
        own_segment = False
        if self._gate is not None:
            verdict = self._gate.decide(result)
            if not verdict.accepted:
                return f"left out by the gate: {verdict.reason}"
            own_segment = verdict.segment_of_its_own
        placed = {(each.domain, each.segment): each for each in self._placed}
        for place, new in enumerate(result.adapters):
            segment = new.continues if new.continues and not (place == 0 and own_segment) else None
            if segment is None:
                segment = 1 + max((number for domain, number in placed if domain == new.domain), default=0)
            before = placed.get((new.domain, segment))
            news = spread(task.held_out, self._exam_rows) if place == 0 else []
            exam = news if before is None else [*before.exam, *news]
            placed[new.domain, segment] = self._at(new, segment, exam)
        self._placed = tuple(placed.values())
        self._state = self._name(result.state) or self._state
        self._delta = self._name(result.base_delta) or self._delta
        return ""

    def _at(self, new: NewAdapter, segment: int, exam: list[Example]) -> _Placed:
        return _Placed(new.domain, segment, self._name(new.folder), tuple(spread(exam, self._exam_rows)))

    def _weights_trained(self) -> int:
        targets, lowest = set(self._options.targets), self._options.frozen_layers
        linear = {
            name: part for name, part in self._workbench.model.model.named_modules() if isinstance(part, nn.Linear)
        }
        return sum(
            self._options.weights_trained(part.in_features, part.out_features)
            for name, part in linear.items()
            if name.rsplit(".", 1)[-1] in targets and _layer(name) >= lowest
        )

    def _name(self, path: Path | None) -> str | None:
        return None if path is None else str(path.relative_to(self._folder))

    def _path(self, name: str | None) -> Path | None:
        return None if name is None else self._folder / name


def _layer(name: str) -> int:
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else -1


def _not_nested(folder: str, names: list[str]) -> list[str]:
    """What a result keeps below its own adapter is copied where it is in service by itself."""
    return [name for name in names if (Path(folder) / name).is_dir()]


def distinct_bytes(adapters: Iterable[Path]) -> int:
    """Bytes of low-rank adapters' files: of rows of A, and columns of B, that stand in several, those of one."""
    sizes: dict[tuple[str, bytes], int] = {}
    for file in adapters:
        for name, tensor in load_file(file).items():
            for part in tensor.unbind(0 if ".lora_A." in name else -1):
                content = part.contiguous().view(torch.uint8).numpy().tobytes()
                sizes[name, content] = len(content)
    return sum(sizes.values())


def _tensors(folder: Path) -> Iterator[Tensor]:
    for file in sorted(folder.glob("*.safetensors")):
        yield from load_file(file).values()
