"""The options of `gsr solve` and `gsr generate`, and the parameters that they stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from gsr_engine.errors import InvalidRequest, shown
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.programs.program import PROGRAMS, find_program
from gsr_engine.programs.template import TEMPLATES
from gsr_engine.repetition import RepetitionDetectionParams

DEFAULT_MAX_TOKENS = 1024
"""The cap of the commands where none is given."""
LOOPS = RepetitionDetectionParams(max_pattern_size=256, min_pattern_size=16, min_count=4)
"""What ends a stream of `gsr solve` where nothing is given: 64 tokens or more that only repeat.
No solution says the same 16 tokens four times in a row, but for tables of equal rows."""

ParamsT = TypeVar("ParamsT", SamplingParams, SelfRefineParams, RepetitionDetectionParams)


def _option(text: str, default: str | None = None, *names: str, **more: Any) -> Any:
    """An option that is None if it is not given, so that it can leave the word to --params."""
    shown = text if default is None else f"{text} [default: {default}]"
    return typer.Option(*names, help=shown, show_default=False, **more)


# A flag has the name of the field that it sets.
Model = Annotated[
    str | None,
    _option("Checkpoint folder, GGUF or hub id.", "nano, the model in the box", metavar="PATH"),
]
Adapter = Annotated[
    str | None,
    _option("LoRA adapter as peft saves it: folder or hub id.", "none", metavar="PATH"),
]
Program = Annotated[
    str | None,
    _option(
        "Published program, whose prompts, widths and sampling become the defaults: "
        + "; ".join(f"{one.name} ({one.about})" for one in PROGRAMS.values())
        + ".",
        "none",
        metavar="NAME",
    ),
]
K = Annotated[int | None, _option("Candidates.", "4")]
Widths = Annotated[
    str | None,
    _option(
        "Refinements of each round before the last: 16,4 is two rounds, 16x8 eight rounds of 16.",
        "none",
    ),
]
Subset = Annotated[
    int | None, _option("How many solutions of the round before a refinement reads.", "all")
]
First = Annotated[
    int | None, _option("Stop once so many candidates have ended by themselves.", "0: all")
]
Layout = Annotated[str | None, _option("linear or branched.", "linear")]
N = Annotated[int | None, _option("Streams.", "1")]
MaxTokens = Annotated[int | None, _option("Most tokens of each stream.", f"{DEFAULT_MAX_TOKENS:,}")]
Temperature = Annotated[float | None, _option("0 is greedy.", "the checkpoint's, or 1.0")]
CandidateTemperature = Annotated[
    float | None, _option("Of the candidates; the refinement is greedy.", "1.0")
]
CandidateTopP = Annotated[float | None, _option("Nucleus of the candidates; 1 keeps all.", "1.0")]
TopP = Annotated[float | None, _option("Nucleus; 1 keeps all.", "the checkpoint's, or 1.0")]
GenerationConfig = Annotated[
    Literal["auto", "none"] | None,
    _option(
        "Take sampling values that are not given from the checkpoint's generation_config.json, or "
        "not.",
        "auto; none with a gsr.json",
    ),
]
Stop = Annotated[list[str] | None, _option("Text that ends a stream; give it again for more.")]
Seed = Annotated[int | None, _option("Makes the run repeatable.", "a new one")]
SummaryTokens = Annotated[
    int | None, _option("Most tokens of a candidate that the refinement reads.", "1000")
]
ForceLayout = Annotated[
    bool, typer.Option("--force-layout", help="Use a layout the model was not trained for.")
]
System = Annotated[str | None, _option("System message before the text.", "none")]
ChatTemplateKwargs = Annotated[
    str | None,
    _option("Variables of the chat template, as JSON.", "none", metavar="JSON"),
]
SpecialTokens = Annotated[
    Literal["parse", "text"],
    typer.Option(help="With --raw: special tokens that the text spells are parsed, or stay text."),
]
Template = Annotated[
    str | None,
    _option(
        f"Prompts: {', '.join(TEMPLATES)}, or a file like gsr.json.",
        "the program's or the checkpoint's",
        metavar="NAME",
    ),
]
Params = Annotated[
    Path | None,
    _option(
        "JSON file of further fields (SelfRefineParams for solve, with SamplingParams in candidate "
        "and refine; SamplingParams for generate). Flags go before it.",
        metavar="FILE",
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
Quantization = Annotated[
    Literal["auto", "none", "int8", "fp8"],
    typer.Option(help="What layers and head multiply in: auto, none, int8 (CPUs) or fp8 (GPUs)."),
]
SpeculativeConfig = Annotated[
    str | None,
    _option(
        'Lookup decoding, as JSON: \'{"method": "ngram", "num_speculative_tokens": 8}\'.',
        "off",
        metavar="JSON",
    ),
]
MaxModelLen = Annotated[
    int | None, _option("Longest context in tokens.", "the checkpoint's maximum")
]
KvCacheGib = Annotated[
    float | None, _option("Memory for KV pages.", "half of what is free; more if it has to be")
]
Threads = Annotated[
    int | None,
    _option("Of the CPU.", "torch's, the affinity or the CPU quota, the smallest: see gsr env"),
]
Raw = Annotated[bool, typer.Option("--raw", help="Complete the text as it is, no chat template.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

_FLAGS = (
    *("max_tokens", "summary_tokens", "force_layout", "top_p", "max_model_len", "kv_cache_gib"),
    *("chat_template_kwargs", "special_tokens", "speculative_config"),
    *("api_key", "api_key_file", "max_pending", "max_k", "max_n", "default_k", "max_body_bytes"),
    *("default_chat_template_kwargs", "keep_alive_seconds", "step_timeout"),
    *("shutdown_delay", "shutdown_timeout"),
    # Elsewhere these are common words, or a file.
    "(?:threads|adapter|dtype|quantization|generation_config)(?=[:=])",
)


def with_flags(text: str) -> str:
    """A message of the engine, with the flags of the commands for the fields that it names."""
    named = rf"(?<![.\w'])({'|'.join(_FLAGS)})(=True)?\b"
    return re.sub(named, lambda found: "--" + found[1].replace("_", "-"), text)


def conversation(system: str | None, text: str) -> list[dict[str, str]]:
    """The user's text, behind a system message if there is one."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def round_widths(text: str | None) -> list[int] | None:
    """The widths that a text like `16,4` or `16x8` stands for; None if there is none.

    Raises:
        InvalidRequest: it is no such text.
    """
    if text is None:
        return None
    parts = [re.fullmatch(r"(\d{1,9})(?:x(\d{1,3}))?", part.strip()) for part in text.split(",")]
    if not all(parts):
        raise InvalidRequest("widths", f"must be like 16,4 or 16x8, got {shown(text)}")
    return [int(one[1]) for one in parts if one for _ in range(int(one[2] or 1))]


def json_object(field: str, text: str | None) -> dict[str, Any] | None:
    """The JSON object that the text of a flag states; None if there is none.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InvalidRequest(field, f"must be a JSON object, got {shown(text)}")
    return values


def sampling_params(file: Path | None, flags: Mapping[str, Any]) -> SamplingParams:
    """The parameters of `gsr generate`; flags that are None leave the word to the file.

    Raises:
        InvalidRequest: a field is unknown or has a bad value.
        CheckpointError: the file cannot be read.
    """
    return _made(SamplingParams, _read(file), _given(flags))


def self_refine_params(
    file: Path | None,
    flags: Mapping[str, Any],
    candidate: Mapping[str, Any],
    max_tokens: int | None,
    program: str | None = None,
) -> SelfRefineParams:
    """The parameters of `gsr solve`, with flags of the candidates and one for all streams.

    Flags go before the file, and the file before the program.

    Raises:
        InvalidRequest, CheckpointError: as `sampling_params`; or there is no such program.
    """
    values = _read(file)
    if program is not None:
        values = find_program(program).completed({**values, **_given(flags)})
    cap = _given({"max_tokens": max_tokens})
    for name, own in (("candidate", _given(candidate)), ("refine", {})):
        theirs = values.get(name, {})
        if not isinstance(theirs, dict):
            raise InvalidRequest(name, f"must be an object of fields, got {shown(theirs)}")
        usual: dict[str, Any] = {"repetition_detection": LOOPS}
        if name == "refine":
            usual["temperature"] = 0.0
        values[name] = _made(SamplingParams, {**usual, **theirs}, {**own, **cap}, f"{name}.")
    return _made(SelfRefineParams, values, _given(flags))


def all_capped(params: SelfRefineParams, context: int) -> SelfRefineParams:
    """The parameters with the default cap where none is given."""
    return replace(
        params, candidate=capped(params.candidate, context), refine=capped(params.refine, context)
    )


def capped(params: SamplingParams, context: int) -> SamplingParams:
    """The parameters with the default cap if none is given."""
    if params.max_tokens is not None:
        return params
    return replace(params, max_tokens=max(params.min_tokens, min(DEFAULT_MAX_TOKENS, context)))


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _read(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    from gsr_engine.checkpoint.files import read_json

    return read_json(file)


def _made(
    kind: type[ParamsT], values: Mapping[str, Any], flags: Mapping[str, Any], place: str = ""
) -> ParamsT:
    """Parameters from the values of a file (at a place in it) and the flags."""
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise InvalidRequest(f"{place}{name}", f"is none of {', '.join(map(repr, known))}")
    values = dict(values)
    loops = values.get("repetition_detection")
    if isinstance(loops, dict):
        inside = f"{place}repetition_detection."
        values["repetition_detection"] = _made(RepetitionDetectionParams, loops, {}, inside)
    try:
        return kind(**{**values, **flags})
    except InvalidRequest as error:
        if error.field in flags or not place:
            raise
        raise InvalidRequest(f"{place}{error.field}", str(error).partition(": ")[2]) from None
