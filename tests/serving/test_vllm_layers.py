"""The engine's worker computes the router's layers beside its steps, as the replica would."""

import asyncio

import numpy as np
import pytest

from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from serving.hosted_layers import HostedLayers
from serving.vllm_engine import VllmEngine
from tests.serving.conftest import Theatre
from tests.serving.stage import DOMAINS, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]


async def test_features_come_from_the_worker_while_it_generates(theatre: Theatre) -> None:
    await theatre.publish(*DOMAINS)
    engine, options = theatre.service.engine, FeatureOptions(layers=(0, 2), expansion=64, max_tokens=128)
    assert isinstance(engine, VllmEngine)
    hosted = HostedLayers(theatre.model, options)
    await engine.host_layers(hosted)
    there = FeatureExtractor(str(theatre.model), options, template(theatre.model), layers=hosted)
    here = FeatureExtractor(str(theatre.model), options, template(theatre.model))
    texts = [text for own in theatre.texts.values() for text in own[:5]]
    asking = [
        asyncio.create_task(
            theatre.service.complete({"model": model, "prompt": "lily saw", "max_tokens": 100, "ignore_eos": True})
        )
        for model in ("base", *DOMAINS)
    ]
    told = [await asyncio.to_thread(there.extract, [text]) for text in texts]
    assert np.array_equal(np.concatenate(told), np.concatenate([here.extract([text]) for text in texts]))
    assert there.fingerprint == here.fingerprint
    for reply in await asyncio.gather(*asking):
        assert reply.body is not None and reply.body["usage"]["completion_tokens"] == 100
