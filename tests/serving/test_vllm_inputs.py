"""No request ends the engine: each odd one is answered or refused to its caller alone, and the next is served."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from serving.engine import Kind, LoadedAdapter
from serving.errors import EngineFailed, Refused
from serving.service import RoutedService
from tests.serving.conftest import Theatre
from tests.serving.stage import DOMAINS

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

BODIES: dict[Kind, dict[str, Any]] = {
    "completion": {"prompt": "am 3. Mai 2021", "max_tokens": 2},
    "chat": {"messages": [{"role": "user", "content": "hi there"}], "max_tokens": 2},
}
CYCLE = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
LATE = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/x"}},
    "required": ["a"],
    "$defs": {"x": {"$ref": "#/$defs/x"}},
}


def schema(content: object) -> dict[str, Any]:
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": content}},
        "max_tokens": 60,
    }


def calling(parameters: object) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "paint", "parameters": parameters}}
    return {"tools": [tool], "tool_choice": "required", "max_tokens": 100}


# What a request adds, and what both kinds answer it with.
BOTH: list[tuple[dict[str, Any], int]] = [
    ({"prompt_logprobs": 0}, 200),
    ({"prompt_logprobs": 1}, 200),
    ({"prompt_logprobs": -1}, 400),
    ({"prompt_logprobs": -2}, 400),
    ({"prompt_logprobs": 10**6}, 400),
    ({"prompt_logprobs": 2**64}, 400),
    ({"n": 3, "prompt_logprobs": 1}, 200),
    ({"n": 0}, 400),
    ({"n": -1}, 400),
    ({"n": 10**9}, 400),
    ({"best_of": 3}, 200),
    ({"use_beam_search": True, "n": 2}, 200),
    ({"use_beam_search": True, "n": 300}, 400),
    ({"logit_bias": {"512": 1.0}}, 400),
    ({"logit_bias": {"-1": 1.0}}, 400),
    ({"logit_bias": {"a": 1.0}}, 400),
    ({"logit_bias": {str(10**30): 1.0}}, 400),
    ({"logit_bias": {"5": float("nan")}}, 200),
    ({"allowed_token_ids": []}, 400),
    ({"allowed_token_ids": [512]}, 400),
    ({"allowed_token_ids": [-1]}, 400),
    ({"allowed_token_ids": [5]}, 200),
    ({"min_tokens": 3}, 400),
    ({"min_tokens": -1}, 400),
    ({"min_tokens": 2, "stop_token_ids": list(range(512))}, 200),
    ({"stop_token_ids": [512]}, 400),
    ({"stop_token_ids": [2**70]}, 400),
    ({"bad_words": [""]}, 400),
    ({"bad_words": ["a" * 5000]}, 200),
    ({"seed": 2**63 - 1, "temperature": 1.0}, 200),
    ({"seed": 2**63}, 400),
    ({"seed": -(2**63) - 1}, 400),
    ({"top_k": 2**64}, 400),
    ({"top_k": -2}, 400),
    ({"temperature": -1}, 400),
    ({"temperature": float("nan")}, 400),
    ({"temperature": 1e-300, "seed": 1}, 200),
    ({"repetition_penalty": 1e-300, "seed": 1}, 200),
    ({"repetition_penalty": 0}, 400),
    ({"max_tokens": -1}, 400),
    ({"max_tokens": 10**9}, 400),
    ({"truncate_prompt_tokens": 10**9}, 400),
    ({"truncate_prompt_tokens": 2, "prompt_logprobs": 1}, 200),
    ({"priority": 1}, 200),
    ({"repetition_detection": {"max_pattern_size": 2**70, "min_count": 2}}, 400),
    ({"logprob_token_ids": [9999]}, 400),
    (schema({"$ref": "#"}), 400),
    (schema(CYCLE), 400),
    (schema(LATE), 400),
    (schema({"type": "nonsense"}), 400),
    (schema({"type": "string", "pattern": "("}), 400),
    ({"structured_outputs": {"grammar": "root ::= root"}}, 400),
    ({"structured_outputs": {"grammar": "nonsense"}}, 400),
    ({"structured_outputs": {"regex": "("}}, 400),
    ({"structured_outputs": {"choice": []}}, 400),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, 400),
]
COMPLETIONS: list[tuple[dict[str, Any], int]] = [
    ({"echo": True, "max_tokens": 0}, 200),
    ({"echo": True, "logprobs": 1, "max_tokens": 0}, 200),
    ({"max_tokens": 0}, 400),
    ({"logprobs": 21}, 400),
    ({"prompt": "", "prompt_logprobs": 1}, 400),
    ({"prompt": [1], "prompt_logprobs": 1}, 200),
    ({"prompt": []}, 400),
    ({"prompt": [[]]}, 400),
    ({"prompt": [5, 512]}, 400),
    ({"prompt": [5, -1]}, 400),
    ({"prompt": [5, 2**70]}, 400),
    ({"prompt": [5] * 254, "prompt_logprobs": 1}, 200),
    ({"prompt": [5] * 256, "prompt_logprobs": 1}, 400),
    ({"prompt": "once upon " * 400}, 400),
    ({"prompt_embeds": "x"}, 400),
]
CHATS: list[tuple[dict[str, Any], int]] = [
    (calling({"$ref": "#"}), 200),
    (calling({"type": "nonsense"}), 200),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]}, 400),
    ({"messages": [{"role": "user", "content": [{"type": "nonsense"}]}]}, 400),
    ({"messages": []}, 400),
    ({"chat_template": "{{ 1/0 }}"}, 400),
    ({"echo": True, "logprobs": True, "prompt_logprobs": 1}, 200),
]
CASES: list[tuple[Kind, dict[str, Any], int]] = [
    *((kind, more, status) for more, status in BOTH for kind in BODIES),
    *(("completion", more, status) for more, status in COMPLETIONS),
    *(("chat", more, status) for more, status in CHATS),
]


async def ask(service: RoutedService, kind: Kind, body: dict[str, Any]) -> int:
    """The status that the caller gets, 200 for a stream only if it ends without an error."""
    try:
        reply = await (service.chat if kind == "chat" else service.complete)(body)
    except Refused as refused:
        return refused.status
    if reply.body is not None:
        json.dumps(reply.body, allow_nan=False)
        return 200
    assert reply.events is not None
    told = [json.loads(event.removeprefix("data: ")) async for event in reply.events if "[DONE]" not in event]
    return next((part["error"]["code"] for part in told if "error" in part), 200)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_odd_requests_are_answered_or_refused_and_the_engine_lives(theatre: Theatre, stream: bool) -> None:
    """Beside each, the base and an adapter generate; every caller gets what is right for its own request."""
    await theatre.publish(*DOMAINS)
    service, done = theatre.service, asyncio.Event()

    async def bystander(model: str) -> None:
        body = {"model": model, "prompt": "once upon a time", "max_tokens": 20, "ignore_eos": True}
        while not done.is_set():
            assert await ask(service, "completion", body) == 200

    bystanders = [asyncio.create_task(bystander(model)) for model in ("base", DOMAINS[0])]
    wrong = []
    try:
        for turn, (kind, more, status) in enumerate(CASES):
            body = {**BODIES[kind], **more, "model": ("base", *DOMAINS)[turn % 4], "stream": stream}
            if stream and (body.get("use_beam_search") or "prompt_logprobs" in body):
                continue
            got = await asyncio.wait_for(ask(service, kind, body), 60)
            if got != status:
                wrong.append((kind, more, status, got))
    finally:
        done.set()
        await asyncio.gather(*bystanders)
    assert service.ready
    assert not wrong, "\n".join(str(case)[:150] + str(case[-1]) for case in wrong)


async def test_an_adapter_of_the_head_is_refused_at_loading(theatre: Theatre, tmp_path: Path) -> None:
    """Its rows could not be told apart there; see serving/lora_rows.py."""
    source = theatre.folders["travel"]
    config = json.loads((source / "adapter_config.json").read_text())
    config["target_modules"] = [*config["target_modules"], "lm_head"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = load_file(source / "adapter_model.safetensors")
    weights["base_model.model.lm_head.lora_A.weight"] = weights[next(iter(weights))].new_zeros(8, 64)
    weights["base_model.model.lm_head.lora_B.weight"] = weights[next(iter(weights))].new_zeros(512, 8)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    engine = theatre.service.engine
    with pytest.raises(EngineFailed, match="lm_head"):
        await engine.load(LoadedAdapter("head@v1-00000000", 900_100, "head", 8), tmp_path)
    assert engine.failure is None
