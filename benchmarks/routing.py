"""Which features, head and abstention a router should have: clinc150's domains, told apart without instructions.

Measured on messages that nothing was chosen by: routing, how many messages of no domain and general questions are left
to the base, and how many of the domains' own messages are kept at a threshold from held-out rows. Each section of the
result is one comparison; `--only` measures some anew and leaves the others. Needs ../shared/data and the models'
folders; pooled states are kept in `--cache`. Run it with `python -m benchmarks.routing`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import routing_sections as sections
from benchmarks import routing_streams as streams
from benchmarks.hardware import describe
from benchmarks.routing_bench import Bench
from benchmarks.routing_conversations import conversations
from benchmarks.routing_features import Model, PooledTexts

RESULT = Path(__file__).parent / "results" / "routing.json"
SHARED = Path(__file__).parents[2] / "shared"

SECTIONS: dict[str, Callable[[Bench], Iterable[dict[str, Any]]]] = {
    "features": sections.features,
    "small_base": sections.small_base,
    "layers": sections.layers,
    "ridge": sections.ridges,
    "scaling": sections.scalings,
    "width": sections.widths,
    "heads_and_abstention": sections.heads_and_abstention,
    "background": sections.backgrounds,
    "two_domains": sections.two_domains,
    "shipped": sections.shipped,
    "same_style": streams.same_style,
    "mixed_split": streams.mixed_split,
    "rare_domains": streams.rare_domains,
    "small_domains": streams.small_domains,
    "shared_instruction": streams.shared_instruction,
    "chat_template": streams.chat_template,
    "conversations": conversations,
}


def main() -> None:
    """Run the study, or some of its sections, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm", required=True, help="folder of the sentence encoder")
    parser.add_argument("--smollm2", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--cache", type=Path, required=True, help="folder for pooled states")
    parser.add_argument("--only", nargs="*", choices=sorted(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    bench = Bench(
        PooledTexts(options.cache),
        minilm=Model("minilm", options.minilm, (0, 2, 4, 5, 6), encoder=True),
        smollm2=Model("smollm2", options.smollm2, (0, 4, 8, 10, 12), encoder=False),
        stories=Model("stories260K", str(SHARED / "models" / "stories260K"), (0, 1, 2, 3, 4, 5), encoder=False),
    )
    result = json.loads(options.out.read_text()) if options.out.exists() else {"sections": {}}
    result["claim"] = __doc__.splitlines()[0] if __doc__ else ""
    for name in options.only:
        started = time.process_time()
        rows = []
        for row in SECTIONS[name](bench):
            rows.append(row)
            print(name, json.dumps(row), flush=True)
        result["sections"][name] = {"cpu_seconds": round(time.process_time() - started, 1), "rows": rows}
        result["hardware"] = describe(("numpy", "scipy", "torch", "transformers"))
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
