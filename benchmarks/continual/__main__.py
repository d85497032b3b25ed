"""What each method keeps and forgets on one stream: accuracy of every task after every task, by name and routed.

Tasks are a folder of `<task>/{train,test}.jsonl`, or TRACE's or O-LoRA's layout as published. Methods and routers, with
their settings, stand in a YAML file; `--choose` sweeps what it names there on held-out rows first. Whatever is done is
kept below --work, so that the same command goes on where it was interrupted. Run it with `anabranch bench continual`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks.continual.layouts import find_tasks
from benchmarks.continual.plan import ORDERS, SETTINGS, ContinualPlan, labelled, orders_of, read_settings
from benchmarks.continual.tasks import Limits
from cluster.errors import ClusterError
from learning.catalogue import CATALOGUE

OUT = Path(__file__).parents[1] / "results" / "continual"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and write the result, its tables and its pictures."""
    options = parser().parse_args(arguments)
    console = Console()
    plan, methods = planned(options)
    if options.dry_run:
        _tell(plan, console)
        return
    from benchmarks.continual.choosing import choose, with_chosen
    from benchmarks.continual.finished import finished, written
    from benchmarks.continual.pictures import draw
    from benchmarks.continual.running import run_all
    from benchmarks.continual.summary import summarise
    from benchmarks.continual.tables import document
    from benchmarks.hardware import describe

    chosen = choose(plan, methods, console, options.workers) if options.choose else {}
    plan = replace(plan, methods=with_chosen(methods, chosen))
    plan = replace(plan, known=finished(plan, options.out / "result.json"))
    run_all(plan, console, options.workers, options.minutes)
    if options.serve:
        from benchmarks.continual.serving import serve_all

        serve_all(plan, console)
    result: dict[str, Any] = {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "base": Path(plan.base).name,
        "data": plan.data.name,
        **summarise(plan),
        "chosen": chosen,
        "settings": {
            "prompt": dict(plan.prompt),
            "training": dict(plan.training),
            "features": dict(plan.features),
            "methods": {label: dict(each) for label, each in plan.methods.items()},
            "routers": {label: dict(each) for label, each in plan.routers.items()},
        },
        "hardware": describe(("torch", "transformers", "peft", "numpy")),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(written(result), encoding="utf-8")
    (options.out / "tables.md").write_text(document(result), encoding="utf-8")
    draw(result, options.out)
    console.print(Markdown(document(result)))
    console.print(f"written to {options.out}", highlight=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        "anabranch bench continual", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, required=True, help="folder of the tasks")
    made.add_argument("--tasks", nargs="*", default=[], help="tasks in their order; default: all by name")
    made.add_argument("--metric", action="append", default=[], metavar="TASK=NAME", help="a task's metric")
    made.add_argument("--prefixed", action="store_true", help='put O-LoRA\'s "Task:", "Dataset:" before its prompts')
    made.add_argument("--base", help="folder of the base model; default: the settings'")
    made.add_argument("--settings", type=Path, default=SETTINGS, help="YAML file of methods and routers")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting instead of the file's")
    made.add_argument("--methods", nargs="*", default=[], help="names in the settings; default: all")
    made.add_argument("--routers", nargs="*", help="names in the settings; default: all")
    made.add_argument(
        "--order",
        action="append",
        default=[],
        metavar="NAME|A,B,C",
        help=f"an order of the tasks, may be given again; by name: {', '.join(ORDERS)}",
    )
    made.add_argument("--orders", type=int, default=1, help="without --order: how many, from the second on at random")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--train", type=int, help="rows of each training file, held-out ones among them; default: all")
    made.add_argument("--test", type=int, help="test rows a task; default: all")
    made.add_argument("--held-out", type=float, default=0.1, help="share of training rows that is held out")
    made.add_argument("--gate", action="store_true", help="leave out what the service's gate rejects")
    made.add_argument("--choose", action="store_true", help="choose the sweeps' values on held-out rows first")
    made.add_argument("--serve", action="store_true", help="serve by vLLM what was learned, and ask it")
    made.add_argument("--workers", type=int, default=0, help="processes beside this one; 0: all in this one")
    made.add_argument("--minutes", type=float, help="begin no course later; the result names those that are unfinished")
    made.add_argument("--work", type=Path, default=Path("runs") / "continual", help="folder of cells")
    made.add_argument("--out", type=Path, default=OUT, help="folder of the result")
    made.add_argument("--dry-run", action="store_true", help="say what would be run")
    return made


def planned(options: argparse.Namespace) -> tuple[ContinualPlan, dict[str, dict[str, Any]]]:
    """The plan of a command line, and the methods' settings by name. Raises `ClusterError` on what can't be."""
    settings = read_settings(options.settings, options.set)
    names = options.methods or list(settings["methods"])
    if unknown := [name for name in names if name not in settings["methods"]]:
        raise ClusterError(f"method {unknown[0]!r}: expected one of {sorted(settings['methods'])}")
    methods = {name: dict(settings["methods"][name] or {}) for name in names}
    if options.gate:
        methods = {f"{name}+gate": {**each, "gate": True} for name, each in methods.items()}
    there = dict(settings.get("routers") or {})
    wanted = list(there) if options.routers is None else options.routers
    if unknown := [name for name in wanted if name not in there]:
        raise ClusterError(f"router {unknown[0]!r}: expected one of {sorted(there)}")
    base = options.base or settings.get("base")
    if base is None:
        raise ClusterError(f"expected --base DIR, as {options.settings} names none")
    if options.base is None and base not in CATALOGUE:
        base = str((options.settings.parent / base).resolve())
    # A dry run of published orders needs no data.
    tasks = options.tasks or ([] if options.order else list(find_tasks(options.data, prefixed=options.prefixed)))
    plan = ContinualPlan(
        base=base,
        data=options.data,
        work=options.work,
        orders=orders_of(options.order, tasks, options.orders),
        seeds=tuple(options.seeds),
        prompt=settings.get("prompt") or {},
        training=settings.get("training") or {},
        features=settings.get("features") or {},
        serving=settings.get("serving") or {},
        methods=labelled(methods, ()),
        routers={name: dict(there[name]) for name in wanted},
        limits=Limits(options.train, options.test, options.held_out),
        metrics=dict(_pair(each) for each in options.metric),
        prefixed=options.prefixed,
    )
    return plan, methods


def _pair(text: str) -> tuple[str, str]:
    task, sign, metric = text.partition("=")
    if not sign:
        raise ClusterError(f"--metric {text}: expected TASK=NAME")
    return task, metric


def _tell(plan: ContinualPlan, console: Console) -> None:
    cells = sum(len(plan.orders[course.order]) for course in plan.courses())
    console.print(f"{len(plan.courses())} courses, {cells} cells", highlight=False)
    for place, order in enumerate(plan.orders):
        console.print(f"order {place}: {', '.join(order)}", highlight=False)
    for label in (*plan.methods, *(f"router {name}" for name in plan.routers)):
        console.print(label, highlight=False)


if __name__ == "__main__":
    main()
