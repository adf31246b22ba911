"""A real chat model behind HTTP, asked by OpenAI's client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gsr_engine import AsyncEngine
from gsr_engine.serving import Settings, create_app
from tests.helpers.live_server import live

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer in one short sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def client(smollm2: Path) -> Iterator[openai.OpenAI]:
    options: dict[str, Any] = {"dtype": "float32", "quantization": "none"}
    engine = AsyncEngine.from_pretrained(smollm2, **options, kv_cache_gib=0.3)
    with live(create_app(engine, settings=Settings(model_name="smollm2"))) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300, max_retries=0)
    asyncio.run(engine.close())


def test_it_answers_and_refines(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0, "seed": 1234}
    plain = client.chat.completions.create(model="smollm2", **asked)
    assert "Paris" in (plain.choices[0].message.content or "")
    assert plain.choices[0].finish_reason == "stop"
    gsr = {"gsr": {"stream": "all"}}
    refined = client.chat.completions.create(
        model="smollm2:selfref@3", **asked, extra_body=gsr, max_completion_tokens=96
    )
    assert refined.choices[0].message.content
    assert refined.usage is not None
    assert plain.usage is not None
    assert refined.usage.completion_tokens <= 96
    # A checkpoint without gsr.json: the candidates answer the conversation as it is.
    assert refined.usage.prompt_tokens == plain.usage.prompt_tokens
    told, usage = refined.model_extra, refined.usage.model_extra
    assert told is not None
    assert usage is not None
    assert told["gsr"]["answer"] is None  # of a chat no form of answer is asked
    texts = [one["text"] for one in told["gsr"]["candidates"]]
    assert len(set(texts)) == 3
    assert usage["gsr"]["refine_prefill"]["tokens_reused"] > 0


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(model="smollm2", **asked).choices[0].message.content
    chunks = client.chat.completions.create(model="smollm2", **asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
