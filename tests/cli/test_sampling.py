"""The line and the object that tell which sampling values a command used."""

from __future__ import annotations

from typer.testing import CliRunner

from gsr_engine import SamplingParams
from gsr_engine.checkpoint.generation_config import GenerationConfig
from gsr_engine.cli import options, sampling
from gsr_engine.cli.commands import app
from gsr_engine.params import SelfRefineParams

STATED = GenerationConfig({"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05})


def test_what_the_checkpoint_stated_is_named_and_what_was_asked_is_not() -> None:
    asked = SamplingParams(temperature=0.7, min_p=0.1)
    told = sampling.values(asked, STATED.fill(asked))
    assert told == {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 1.0,
        "min_p": 0.1,
        "repetition_penalty": 1.05,
        "from_checkpoint": ["top_k", "repetition_penalty"],
    }
    assert options.with_flags(sampling.line({"": told})) == (
        "sampling: temperature 0.7, top-k 20, min-p 0.1, repetition-penalty 1.05 (top-k, "
        "repetition-penalty: the checkpoint's; --generation-config none leaves them out)"
    )


def test_with_the_engines_own_values_there_is_nothing_to_leave_out() -> None:
    params = SelfRefineParams()
    told = {
        kind: sampling.values(asked, GenerationConfig().fill(asked))
        for kind, asked in (("candidates", params.candidate), ("refinement", params.refine))
    }
    assert sampling.line(told) == "sampling: candidates temperature 1; refinement temperature 0"


def test_messages_name_the_flag_and_not_the_file() -> None:
    text = "/x/generation_config.json: top_k: is bad; generation_config='none' does not read it"
    assert options.with_flags(text) == text.replace("generation_config=", "--generation-config=")
    for command in ("solve", "generate"):
        done = CliRunner().invoke(app, [command, "a", "--generation-config", "vllm"])
        assert done.exit_code == 2
        assert "'vllm' is not one of 'auto', 'none'" in done.stderr
