"""Bad input raises a typed error that names field and limit; other requests are not affected."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsr_engine import (
    CheckpointError,
    Engine,
    EngineClosed,
    InvalidRequest,
    SamplingParams,
    SelfRefineParams,
    UnsupportedModel,
)
from gsr_engine.demo.report import NANO

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"n": 0}, "n", "from 1 to 256, got 0"),
        ({"n": 10**9}, "n", "from 1 to 256, got 1000000000"),
        ({"n": True}, "n", "got True"),
        ({"temperature": -1.0}, "temperature", "from 0 to 100, got -1.0"),
        ({"temperature": float("nan")}, "temperature", "got nan"),
        ({"top_p": 0.0}, "top_p", "above 0"),
        ({"top_p": 1.5}, "top_p", "from 0 to 1, got 1.5"),
        ({"min_p": -0.1}, "min_p", "from 0 to 1"),
        ({"top_k": -2}, "top_k", "got -2"),
        ({"max_tokens": 0}, "max_tokens", "got 0"),
        ({"seed": -1}, "seed", "got -1"),
        ({"seed": 2**63}, "seed", "from 0 to"),
        ({"stop_token_ids": (-5,)}, "stop_token_ids", "got -5"),
        ({"stop_token_ids": "5"}, "stop_token_ids", "must be a token id or some, got '5'"),
        ({"temperature": 10**400}, "temperature", "from 0 to 100"),
        ({"ignore_eos": "no"}, "ignore_eos", "must be True or False"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "from 0.01 to 100, got 0.0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty", "got inf"),
        ({"presence_penalty": 2.5}, "presence_penalty", "from -2 to 2, got 2.5"),
        ({"presence_penalty": True}, "presence_penalty", "got True"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty", "from -2 to 2, got nan"),
        ({"min_tokens": -1}, "min_tokens", "got -1"),
        ({"min_tokens": True}, "min_tokens", "got True"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "9 is above max_tokens 8"),
        ({"stop": 5}, "stop", "must be a text or some, got 5"),
        ({"stop": ("",)}, "stop", "texts of 1 to 1000 characters, got ''"),
        ({"stop": ("a", None)}, "stop", "got None"),
        ({"stop": ("x" * 1001,)}, "stop", "texts of 1 to 1000 characters"),
        ({"stop": tuple("abcdefghijklmnopq")}, "stop", "17 are more than 16"),
        ({"stop_token_ids": tuple(range(1025))}, "stop_token_ids", "1025 are more than 1024"),
        ({"top_logprobs": 21}, "top_logprobs", "from 0 to 20, got 21"),
        ({"top_logprobs": False}, "top_logprobs", "got False"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "from 0 to 20, got 21"),
        ({"prompt_logprobs": -1}, "prompt_logprobs", "from 0 to 20, got -1"),
    ],
)
def test_sampling_params(arguments: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        SamplingParams(**arguments)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"k": 0}, "k", "from 1 to 256, got 0"),
        ({"k": 1000}, "k", "got 1000"),
        ({"layout": "diagonal"}, "layout", "one of linear, branched, got 'diagonal'"),
        ({"min_candidates": 5}, "min_candidates", "from 1 to 4, got 5"),
        ({"summary_tokens": 0}, "summary_tokens", "got 0"),
        ({"candidate": SamplingParams(n=2)}, "candidate.n", "must be 1"),
        ({"refine": SamplingParams(seed=1)}, "refine.seed", "SelfRefineParams.seed derives it"),
        ({"candidate": None}, "candidate", "must be SamplingParams, got None"),
        ({"template": 3}, "template", "must be a name, got 3"),
        ({"first": 5}, "first", "from 0 to 4, got 5"),
        ({"first": 1, "min_candidates": 2}, "first", "1 candidates are too few for min_cand"),
        ({"first": 2, "agreement": 3}, "first", "2 candidates are too few for agreement 3"),
    ],
)
def test_self_refine_params(arguments: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        SelfRefineParams(**arguments)
    assert caught.value.field == field


def largest_max_tokens(error: Exception) -> int:
    found = re.search(r"the largest max_tokens that fits is (\d+)", str(error))
    assert found, error
    return int(found[1])


def test_requests_that_cannot_be_served(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, max_model_len=64) as engine:
        cases: list[tuple[Any, Any, str, str]] = [
            (engine.generate, [""], "prompt", "is empty"),
            (engine.generate, [[]], "prompt", "is empty"),
            (engine.generate, [[1] * 64], "prompt", "has 64 tokens: 1 too many"),
            (engine.generate, [[1] * 100], "prompt", "37 too many"),
            (engine.generate, [[5, 100000]], "prompt", "token id 100000 is outside 0..100"),
            (engine.generate, [[-1]], "prompt", "token id -1"),
            (engine.generate, {"a": 1}, "prompts", "must be a list"),
            (engine.generate, [[True]], "prompt", "token id True is no integer"),
            (engine.self_refine, [""], "problem", "is empty"),
            (engine.self_refine, ["   \n"], "problem", "is empty"),
            (engine.self_refine, ["x" * 500], "problem", "too many"),
            (engine.self_refine, [5.5], "problem", "text or a list of messages, got float"),
            (engine.chat, [[{"role": "user"}]], "messages", "message 0 has no content"),
            (engine.chat, [[{"role": "user", "content": None}]], "messages", "must be text"),
            (engine.generate, [[5.7, 6]], "prompt", "token id 5.7 is no integer"),
            (engine.generate, [None], "prompt", "text or token ids, got None"),
            (engine.generate, ["\ud800"], "prompt", "no valid Unicode"),
            (lambda text: engine.generate(text, []), ["a"], "params", "0 of them for 1"),
            (lambda text: engine.generate(text, {}), ["a"], "params", "must be SamplingParams"),
            (lambda c: engine.self_refine(["1"], candidates=c), ["two"], "candidates", "one text"),
            (lambda c: engine.self_refine(["1"], candidates=c), 5, "candidates", "per problem"),
            (lambda r: engine.self_refine(["1"], refiner=r), "other", "refiner", "an Engine"),
            (
                lambda m: engine.generate(["1"], SamplingParams(min_tokens=m)),
                70,
                "min_tokens",
                "63",
            ),
        ]
        for call, argument, field, message in cases:
            with pytest.raises(InvalidRequest, match=message) as caught:
                call(argument)
            assert caught.value.field == field
        with pytest.raises(InvalidRequest, match=r"2 of them for 1 prompts"):
            engine.generate(["a"], [SamplingParams(), SamplingParams()])
        assert not engine.has_work  # nothing of the refused calls was queued
        assert engine.generate([[5, 6]], SamplingParams(max_tokens=3))[0].completions


def test_one_bad_prompt_refuses_the_call_and_leaves_others_alone(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        running = engine.new_generate("hello", SamplingParams(max_tokens=20, ignore_eos=True))
        engine.submit(running)
        engine.step()
        with pytest.raises(InvalidRequest):
            engine.generate(["fine", ""])
        while engine.has_work:
            engine.step()
        assert running.result is not None
        assert len(running.result.completions[0].token_ids) == 20
        assert engine.stats()["requests_finished"] == 1


def test_layout_that_the_checkpoint_was_not_trained_for(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        with pytest.raises(InvalidRequest, match=r"not trained for 'branched'.*force_layout"):
            engine.self_refine(["1+1"], SelfRefineParams(layout="branched"))
        short = SamplingParams(max_tokens=5)
        forced = SelfRefineParams(
            layout="branched", force_layout=True, candidate=short, refine=short
        )
        assert engine.self_refine(["1+1"], forced)[0].candidates


def test_a_request_that_the_pool_can_never_hold(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.0004, max_num_seqs=8) as engine:
        pages = engine.limits.num_pages
        for most in (1000, None):  # the pool does not shorten what the context leaves
            with pytest.raises(InvalidRequest, match=f"pages .* the engine has {pages}") as caught:
                engine.generate(["hello"], SamplingParams(n=8, max_tokens=most))
            assert caught.value.field == "max_tokens"
        fitting = largest_max_tokens(caught.value)
        assert fitting == (pages - 1) * 16
        engine.new_generate("hello", SamplingParams(n=8, max_tokens=fitting))
        with pytest.raises(InvalidRequest, match=f"fits is {fitting}"):
            engine.new_generate("hello", SamplingParams(n=8, max_tokens=fitting + 1))


def test_more_work_than_the_pool_holds_waits_its_turn(qwen2: Path) -> None:
    """Requests wait and are preempted; each draws the tokens that it would draw alone."""
    params = SelfRefineParams(
        k=4,
        seed=1,
        candidate=SamplingParams(max_tokens=40),
        refine=SamplingParams(temperature=0.0, max_tokens=40),
    )
    problems = [f"{i}+{i}" for i in range(6)]
    with Engine.from_pretrained(qwen2) as roomy:
        expected = roomy.self_refine(problems, params)
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.0005) as tight:
        assert tight.limits.num_pages < 2 * 30
        results = tight.self_refine(problems, params)
        assert tight.stats()["pages_peak"] <= tight.limits.num_pages
        assert tight.stats()["preemptions"]
        tight.check()
    for one, other in zip(results, expected, strict=True):
        streams = zip(
            [*one.candidates, one.refinement], [*other.candidates, other.refinement], strict=True
        )
        assert all(a and b and a.token_ids == b.token_ids for a, b in streams)


def test_more_streams_than_decode_at_a_time(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, max_num_seqs=4) as engine:
        with pytest.raises(InvalidRequest, match="n: 5 streams are more than max_num_seqs 4"):
            engine.generate(["a"], SamplingParams(n=5))
        with pytest.raises(InvalidRequest, match="k: 6 streams"):
            engine.self_refine(["a"], SelfRefineParams(k=6))


def test_closed_engine(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2) as engine:
        pass
    with pytest.raises(EngineClosed):
        engine.generate(["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype: must be auto, float32 or bfloat16, got 'int4'"),
        ({"device": "tpu"}, "device: must be"),
        ({"max_model_len": 10**6}, "max_model_len: 1000000 is above the checkpoint's 1024"),
        ({"kv_cache_gib": 0}, "kv_cache_gib"),
        ({"kv_cache_gib": float("inf")}, "kv_cache_gib"),
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization: must be above 0, at most 1"),
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization: must be a number from 0 to 1"),
        ({"cuda_graphs": 1}, "cuda_graphs: must be True or False"),
        ({"share_spans": None}, "share_spans: must be True or False"),
        ({"max_num_seqs": None}, "max_num_seqs: must be an integer from 1 to 65536, got None"),
        ({"max_batch_tokens": 8}, "max_batch_tokens: 8 is below max_num_seqs 512"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_engine_options(options: dict[str, Any], message: str, qwen2: Path) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Engine.from_pretrained(qwen2, **options)


@pytest.fixture
def broken(qwen2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2, tmp_path / "broken"))


def edit(file: Path, **changes: object) -> None:
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | changes))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "lacks model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json"),
    ],
)
def test_missing_files(file: str, message: str, broken: Path) -> None:
    (broken / file).unlink()
    with pytest.raises(CheckpointError, match=message):
        Engine.from_pretrained(broken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; supported are"),
        ({"architectures": None}, "none named"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config {.*gptq"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4}}, "rope type 'dynamic'"),
    ],
)
def test_unsupported_models(changes: dict[str, object], message: str, broken: Path) -> None:
    edit(broken / "config.json", **changes)
    with pytest.raises(UnsupportedModel, match=message):
        Engine.from_pretrained(broken)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 0},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "many"},
        {"architectures": 5},
        {"max_position_embeddings": -5},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": "large"}},
    ],
)
def test_nonsense_in_the_config(changes: dict[str, object], broken: Path) -> None:
    edit(broken / "config.json", **changes)
    with pytest.raises(CheckpointError):
        Engine.from_pretrained(broken)


def test_weights_that_are_no_floats(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, broken / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=f"{name} is stored as I8"):
        Engine.from_pretrained(broken)


def test_end_tokens_that_are_no_ids(broken: Path) -> None:
    (broken / "generation_config.json").write_text('{"eos_token_id": "2"}')
    with pytest.raises(CheckpointError, match="eos_token_id must be token ids"):
        Engine.from_pretrained(broken)


def test_broken_contents(broken: Path) -> None:
    config = (broken / "config.json").read_text()
    for text, message in (("{", "cannot be read as JSON"), ("[]", "must hold a JSON object")):
        (broken / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            Engine.from_pretrained(broken)
    (broken / "config.json").write_text(config)
    edit(broken / "config.json", num_attention_heads=3)
    with pytest.raises(CheckpointError, match="no multiple"):
        Engine.from_pretrained(broken)
    (broken / "config.json").write_text(config)
    edit(broken / "config.json", intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"mlp.gate_proj.weight has shape"):
        Engine.from_pretrained(broken)
    (broken / "config.json").write_text(config)
    (broken / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Engine.from_pretrained(broken)


@pytest.mark.parametrize(
    "gsr",
    [
        {"layouts": ["spiral"]},
        {"unknown": 1},
        {"answer_pattern": "("},
        {"answer_pattern": "no group"},
        {"refine_position": "middle"},
        {"template": "no-such-template"},
        {"template": {"direct": ""}},
        {"thinking": ["<think>"]},
    ],
)
def test_bad_gsr_json(gsr: dict[str, object], broken: Path) -> None:
    (broken / "gsr.json").write_text(json.dumps(gsr))
    with pytest.raises(CheckpointError, match=r"gsr\.json"):
        Engine.from_pretrained(broken)


def test_no_such_checkpoint(tmp_path: Path) -> None:
    for name in (str(tmp_path / "nowhere"), "./nowhere", "no-one/no-such-model"):
        with pytest.raises(CheckpointError):
            Engine.from_pretrained(name)


def test_given_candidates_do_not_finish_one_by_one() -> None:
    with Engine.from_pretrained(NANO, kv_cache_gib=0.01) as engine:
        params = SelfRefineParams(order="as_finished")
        with pytest.raises(InvalidRequest, match="order: as_finished needs candidates"):
            engine.new_self_refine("1 * 2", params, candidates=["2"])
        params = SelfRefineParams(agreement=1)
        with pytest.raises(InvalidRequest, match="agreement: 1 needs candidates"):
            engine.new_self_refine("1 * 2", params, candidates=["2"])
