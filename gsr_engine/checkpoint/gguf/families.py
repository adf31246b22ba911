"""The architectures of GGUF files that run, and what their tensors need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gsr_engine.checkpoint.gguf.header import GgufHeader
from gsr_engine.errors import UnsupportedModel, shown


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """An architecture of GGUF files, and the family in transformers that it is.

    Attributes:
        architecture: the name in `config.json`.
        marked: a field, and the name instead if a file states it and it is not 0.
        windowed: whether a file may state a sliding window.
        interleaved: whether the rows of queries and keys stand as rotary pairs (0, 1), (2, 3), …
            within a head; those of transformers stand as (0, d/2), (1, d/2 + 1), …
        biases: the layers' tensors with a bias.
        sliding_theta: the base of the rotation in layers that slide, where the file names none;
            None: that of the other layers.
        assumed: fields of `config.json` that files do not state, and the value in llama.cpp.
    """

    architecture: str
    marked: tuple[str, str] | None = None
    windowed: bool = False
    interleaved: bool = False
    biases: frozenset[str] = frozenset()
    sliding_theta: float | None = None
    assumed: Mapping[str, Any] = field(default_factory=dict)

    def name_of(self, own: Mapping[str, Any]) -> str:
        """The name in `config.json`, from the architecture's fields in the file."""
        if self.marked is not None and own.get(self.marked[0]):
            return self.marked[1]
        return self.architecture


FAMILIES = {
    # Files of Mistral say llama, too.
    "llama": GgufFamily(
        "LlamaForCausalLM",
        marked=("attention.sliding_window", "MistralForCausalLM"),
        windowed=True,
        interleaved=True,
    ),
    "qwen2": GgufFamily("Qwen2ForCausalLM", biases=frozenset({"attn_q", "attn_k", "attn_v"})),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
    "qwen3moe": GgufFamily("Qwen3MoeForCausalLM", assumed={"norm_topk_prob": True}),
    "phi3": GgufFamily("Phi3ForCausalLM", windowed=True),
    "smollm3": GgufFamily("SmolLM3ForCausalLM", interleaved=True),
    "olmo2": GgufFamily(
        "Olmo2ForCausalLM",
        marked=("attention.sliding_window", "Olmo3ForCausalLM"),
        windowed=True,
    ),
    # The language model of Mistral Small 3 says mistral3, too.
    "mistral3": GgufFamily(
        "MistralForCausalLM",
        marked=("attention.temperature_scale", "Ministral3ForCausalLM"),
        interleaved=True,
    ),
    "gemma3": GgufFamily("Gemma3ForCausalLM", windowed=True, sliding_theta=10000.0),
}
"""By the name in `general.architecture`."""


def family_of(header: GgufHeader) -> GgufFamily:
    """The family of a file.

    Raises:
        CheckpointError: the file names no architecture.
        UnsupportedModel: its architecture does not run, or it is no model, but e.g. an adapter.
    """
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise UnsupportedModel(f"{header.path.name} is of type {shown(kind)}, not a model")
    name = header.fields.text("general.architecture")
    if name not in FAMILIES:
        raise UnsupportedModel(
            f"{header.path.name}: architecture {shown(name)} is not supported in a GGUF; "
            f"supported are {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]
