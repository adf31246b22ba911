"""Flags have the names of fields, files hold the others, and what is unknown is refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import (
    CheckpointError,
    InvalidRequest,
    RepetitionDetectionParams,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.cli import options
from gsr_engine.cli.commands import app

NOTHING: dict[str, Any] = {}


def written(folder: Path, values: object) -> Path:
    file = folder / "params.json"
    file.write_text(json.dumps(values))
    return file


def test_every_field_can_be_given_in_a_file(tmp_path: Path) -> None:
    loops = RepetitionDetectionParams(max_pattern_size=9, min_count=3)
    given = SamplingParams(
        temperature=0.6, stop=("END",), stop_token_ids=(5,), repetition_detection=loops
    )
    for kind, make in (
        (SamplingParams, lambda file: options.sampling_params(file, NOTHING)),
        (SelfRefineParams, lambda file: options.self_refine_params(file, NOTHING, NOTHING, None)),
    ):
        wanted = given if kind is SamplingParams else SelfRefineParams(k=3, widths=(2,), seed=1)
        values = {one.name: getattr(wanted, one.name) for one in fields(kind)}
        for name in {"candidate", "refine"} & values.keys():
            part = values[name]
            values[name] = {one.name: getattr(part, one.name) for one in fields(SamplingParams)}
        if "repetition_detection" in values:
            values["repetition_detection"] = asdict(loops)
        assert make(written(tmp_path, values)) == wanted


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"k": 2, "summary_tokens": 9, "candidate": {"top_k": 3, "top_p": 0.5}})
    made = options.self_refine_params(file, {"k": 5, "seed": None}, {"top_p": 0.9}, 70)
    assert (made.k, made.summary_tokens, made.seed) == (5, 9, None)
    usual: Any = {"max_tokens": 70, "repetition_detection": options.LOOPS}
    assert made.candidate == SamplingParams(top_k=3, top_p=0.9, **usual)
    assert made.refine == SamplingParams(temperature=0.0, **usual)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kk": 3}, "kk: is none of 'k', 'layout', "),
        ({"candidate": {"max_new_tokens": 3}}, "candidate.max_new_tokens: is none of 'n', 'temp"),
        ({"candidate": {"top_p": 3}}, "candidate.top_p: must be a number from 0 to 1, got 3"),
        ({"refine": 5}, "refine: must be an object of fields, got 5"),
        (
            {"refine": {"repetition_detection": {"max_pattern_size": 5, "min_count": 1}}},
            "refine.repetition_detection.min_count: must be at least 2, got 1",
        ),
        (
            {"candidate": {"repetition_detection": {"size": 5}}},
            "candidate.repetition_detection.size: is none of 'max_pattern_size', 'min_pat",
        ),
        ({"k": "4"}, "k: must be an integer from 1 to 256, got '4'"),
    ],
)
def test_what_a_file_may_not_hold(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        options.self_refine_params(written(tmp_path, values), NOTHING, NOTHING, None)
    assert str(caught.value).startswith(message)


def test_flags_go_before_the_file_and_the_file_before_the_program(tmp_path: Path) -> None:
    file = written(tmp_path, {"subset": 3, "candidate": {"top_k": 3}, "refine": {"max_tokens": 9}})
    made = options.self_refine_params(file, {"k": 5}, {"temperature": 0.5}, None, "rsa")
    assert (made.template, made.k, made.subset, made.widths) == ("rsa", 5, 3, (5,) * 8)
    usual: Any = {"top_p": 1.0, "repetition_detection": options.LOOPS}
    assert made.candidate == SamplingParams(temperature=0.5, top_k=3, max_tokens=8192, **usual)
    assert made.refine == SamplingParams(temperature=1.0, top_k=0, max_tokens=9, **usual)
    capped = options.self_refine_params(None, {"widths": [2]}, NOTHING, 70, "rsa")
    assert (capped.k, capped.widths, capped.refine.max_tokens) == (16, (2,), 70)
    with pytest.raises(InvalidRequest, match=r"^program: must be one of agglm, gsr, .*, got 'x'"):
        options.self_refine_params(None, NOTHING, NOTHING, None, "x")


def test_widths_are_a_list_or_repeat() -> None:
    assert options.round_widths(None) is None
    assert options.round_widths("4") == [4]
    assert options.round_widths("32, 4") == [32, 4]
    assert options.round_widths("16x3,2") == [16, 16, 16, 2]
    for text in ("", "4,", "x3", "4x", "-1", "4;2"):
        with pytest.raises(InvalidRequest, match="widths: must be like 16,4 or 16x8"):
            options.round_widths(text)


def test_a_bad_flag_is_named_as_one() -> None:
    for flags, candidate, cap, field in (
        ({"k": 0}, {}, None, "k"),
        ({}, {"temperature": -1.0}, None, "temperature"),
        ({}, {}, 0, "max_tokens"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            options.self_refine_params(None, flags, candidate, cap)
        assert caught.value.field == field


@pytest.mark.parametrize("text", ["[1]", "{", ""])
def test_what_is_no_file_of_fields(tmp_path: Path, text: str) -> None:
    file = tmp_path / "params.json"
    file.write_text(text)
    with pytest.raises(CheckpointError, match=r"params\.json"):
        options.sampling_params(file, NOTHING)
    with pytest.raises(CheckpointError, match=r"has no none\.json"):
        options.sampling_params(tmp_path / "none.json", NOTHING)


def test_the_default_cap() -> None:
    assert options.capped(SamplingParams(), 8192).max_tokens == 1024
    assert options.capped(SamplingParams(), 512).max_tokens == 512
    assert options.capped(SamplingParams(max_tokens=4000), 512).max_tokens == 4000
    assert options.capped(SamplingParams(min_tokens=2000), 8192).max_tokens == 2000


def test_messages_name_flags() -> None:
    told = options.with_flags("max_tokens: 5 (RefineResult.summary_tokens); force_layout=True, k")
    assert told == "--max-tokens: 5 (RefineResult.summary_tokens); --force-layout, k"
    told = options.with_flags("dtype='bfloat16' takes half, adapter= an adapter of its own dtype")
    assert told == "--dtype='bfloat16' takes half, --adapter= an adapter of its own dtype"
    told = options.with_flags("quantization='none' dequantises it, without quantization")
    assert told == "--quantization='none' dequantises it, without quantization"


@pytest.mark.parametrize("command", ["solve", "generate"])
def test_help_is_whole_at_80_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app([command, "--help"])
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert "..." not in shown
    assert max(map(len, shown.splitlines())) <= 80
    words = " ".join(shown.split())
    assert "Most tokens of each stream. [default: 1,024]" in words
    assert "Exit status: 0 if there is an answer, 1 if not" in words


def test_a_system_message_and_variables_come_from_flags() -> None:
    user = {"role": "user", "content": "hi"}
    assert options.conversation(None, "hi") == [user]
    assert options.conversation("be brief", "hi") == [
        {"role": "system", "content": "be brief"},
        user,
    ]
    assert options.json_object("chat_template_kwargs", '{"enable_thinking": false}') == {
        "enable_thinking": False
    }
    for text in ("enable_thinking=false", "[1]", "{", "null"):
        with pytest.raises(InvalidRequest, match="chat_template_kwargs: must be a JSON object"):
            options.json_object("chat_template_kwargs", text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--raw", "--system", "x"], "raw: is text without a template"),
        (["--special-tokens", "text"], "special_tokens: is for raw text"),
    ],
)
def test_flags_that_contradict(flags: list[str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        app(["generate", "hi", *flags], standalone_mode=False)


def test_loops_end_streams_of_solve_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    made = options.self_refine_params(None, NOTHING, NOTHING, None)
    assert made.candidate.repetition_detection == made.refine.repetition_detection == options.LOOPS
    file = written(tmp_path, {"candidate": {"repetition_detection": None}})
    made = options.self_refine_params(file, NOTHING, NOTHING, None)
    assert (made.candidate.repetition_detection, made.refine.temperature) == (None, 0.0)
    assert options.sampling_params(None, NOTHING).repetition_detection is None
