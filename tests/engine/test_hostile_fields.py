"""Values of the wrong kind or size in config.json and gsr.json are refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from gsr_engine import CheckpointError
from gsr_engine.checkpoint.families import FAMILIES as SUPPORTED
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.model.rope import rope_table
from tests.helpers.checkpoints import FAMILIES, LLAMA3, SHAPE, YARN, model_type
from tests.helpers.hostile import HUGE, VALUES, assert_short

pytestmark = pytest.mark.slow

ConfigT = TypeVar("ConfigT", ModelConfig, GsrConfig)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to all values inside of a JSON object."""
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in steps:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def changed(raw: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    """A copy with one value replaced; `...` removes it."""
    raw = copy.deepcopy(raw)
    inner: Any = raw
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return raw


def read_or_refuse(read: Callable[[], ConfigT], folder: Path = Path("/nowhere")) -> ConfigT | None:
    """What was read; None if it was refused with a typed error, which must be short."""
    try:
        return read()
    except CheckpointError as error:
        assert_short(error, folder)
        return None


def valid(rope: str) -> dict[str, Any]:
    """A valid config.json."""
    return {
        "architectures": ["MistralForCausalLM" if rope == "llama3" else "Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "vocab_size": 101,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 1024,
        "original_max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4096,
        "torch_dtype": "float32",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "rope_parameters": {
            "llama3": LLAMA3,
            "yarn": YARN
            | {"beta_fast": 32, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5}
            | {"attention_factor": 1.1, "truncate": True},
        }.get(rope, {"rope_type": "default", "rope_theta": 1e4}),
    }


def valid_of(family: str) -> dict[str, Any]:
    """A valid config.json as transformers writes it."""
    config = AutoConfig.for_model(
        model_type(family), **{**SHAPE, **FAMILIES[family]}, vocab_size=101, pad_token_id=0
    )
    raw: dict[str, Any] = config.to_dict()
    types = {one.model_type: name for name, one in SUPPORTED.items()}
    return raw | {"architectures": [types[config.model_type]]}


VALID = {
    **{f"rope {rope}": valid(rope) for rope in ("default", "llama3", "yarn")},
    **{family: valid_of(family) for family in FAMILIES},
}


@pytest.mark.parametrize("name", VALID)
@given(data=st.data())
def test_a_changed_config_loads_or_is_refused(name: str, data: st.DataObject) -> None:
    raw = VALID[name]
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([*places(raw)]))
        raw = changed(raw, path, data.draw(st.sampled_from([..., *VALUES])))
    config = read_or_refuse(lambda: ModelConfig.from_dict(raw))
    if config is None:
        return
    sizes = (config.hidden_size, config.num_layers, config.vocab_size, config.max_position)
    assert all(type(size) is int and 0 < size <= 2**24 for size in sizes)
    if config.head_dim <= 64:
        for kind in config.layers[:4]:
            assert rope_table(kind.rope, config.head_dim, 32).isfinite().all()


@given(data=st.data())
def test_a_changed_gsr_json_loads_or_is_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("gsr")
    GsrConfig(num_candidates=(2, 8), answer_pattern=r"= (\d+)").save(folder)
    raw = json.loads((folder / "gsr.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([*places(raw)]))
        raw = changed(raw, path, data.draw(st.sampled_from([..., *VALUES])))
    (folder / "gsr.json").write_text(json.dumps(raw))
    config = read_or_refuse(lambda: GsrConfig.from_folder(folder), folder)
    if config is None:
        return
    assert set(config.layouts) <= {"linear", "branched"}
    assert isinstance(config.template.direct, str)
    assert isinstance(config.template.branched, str) or "branched" not in config.layouts


SIZES = [
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, 10**12, 10**400, 1.5, True, "64", [64], {}])
def test_sizes_are_integers_within_limits(name: str, value: object) -> None:
    with pytest.raises(
        CheckpointError, match=rf"config\.json: {name} must be an integer from 1 to"
    ):
        ModelConfig.from_dict(valid("default") | {name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 0}, "rope_theta must be a number from 1 to 1e+12, got 0"),
        ({"rope_theta": -1e4}, "rope_theta must be a number"),
        ({"rope_theta": 10**400}, "rope_theta must be a number"),
        ({"rope_theta": 1.0}, "must be above 1 for yarn"),
        ({"factor": 0}, "factor must be a number from 1 to 1e+06, got 0"),
        ({"factor": None}, "lacks 'factor'"),
        ({"factor": [4]}, r"factor must be a number .*, got \[4\]"),
        ({"beta_fast": -1}, "beta_fast must be a number"),
        ({"attention_factor": "1"}, "attention_factor must be a number"),
        ({"mscale": 1e300}, "mscale must be a number"),
        ({"truncate": 1}, "truncate must be true or false, got 1"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings must be an"),
        ({"original_max_position_embeddings": 2.5}, "original_max_position_embeddings must be an"),
        ({"full_attention": {"rope_theta": 1e6}}, "differ by layer"),
    ],
)
def test_rope_parameters_out_of_range(changes: dict[str, Any], message: str) -> None:
    raw = valid("yarn")
    with pytest.raises(CheckpointError, match=message.replace("+", r"\+")):
        ModelConfig.from_dict(raw | {"rope_parameters": raw["rope_parameters"] | changes})


def test_other_fields_of_a_wrong_kind() -> None:
    raw = valid("llama3")
    low = raw["rope_parameters"] | {"low_freq_factor": 4.0}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rope_parameters": low}, "low_freq_factor 4 must be below high_freq_factor"),
        ({"rope_parameters": [1]}, r"rope_parameters must be an object, got \[1\]"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number from 1e-30 to 1, got 0"),
        ({"rms_norm_eps": None}, "lacks 'rms_norm_eps'"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false"),
        ({"torch_dtype": ["float32"]}, "torch_dtype must be a text"),
        ({"sliding_window": 0}, "sliding_window must be an integer"),
        ({"architectures": [HUGE]}, "architecture xxx"),
        ({"architectures": [{"a": 1}]}, "architecture {'a': 1} is not supported"),
        ({"hidden_act": HUGE}, "hidden_act 'xxx"),
    ]
    for changes, message in cases:
        with pytest.raises(CheckpointError, match=message) as caught:
            ModelConfig.from_dict(raw | changes)
        assert_short(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layouts": None}, "layouts must be some of"),
        ({"layouts": []}, "layouts must be some of"),
        ({"layouts": "linear"}, "layouts must be some of .* got 'linear'"),
        ({"num_candidates": [4]}, "num_candidates must be the least and the most"),
        ({"num_candidates": [8, 2]}, "num_candidates must be the least and the most"),
        ({"num_candidates": [1, 10**12]}, "from 1 to 256"),
        ({"thinking": ["<t>", HUGE]}, "two tags of at most 100"),
        ({"template": None}, "template must be agglm or gsr or .*, or texts, got None"),
        ({"template": {HUGE: "a"}}, "template must have direct, preamble"),
        ({"answer_pattern": 5}, "answer_pattern must be a text of at most 1000 characters, got 5"),
        ({"answer_pattern": "(" * 900 + ")" * 900}, "answer_pattern"),
        ({"answer_pattern": "(a{99999999999999})"}, "answer_pattern is no regular expression"),
        ({"template_hash": HUGE}, "template_hash is 'xxx"),
        ({HUGE: 1}, r"unknown fields \['xxx"),
    ],
    ids=range(14),
)
def test_fields_of_gsr_json(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "gsr.json").write_text(json.dumps(changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        GsrConfig.from_folder(tmp_path)
    assert_short(caught.value, tmp_path)
