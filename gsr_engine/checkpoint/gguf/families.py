"""The architectures of GGUF files that run, and what their tensors need."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.checkpoint.gguf.header import GgufHeader
from gsr_engine.errors import UnsupportedModel, shown


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """An architecture of GGUF files, and the family in transformers that it is.

    Attributes:
        architecture: the name in `config.json`.
        windowed: the name if the file states a sliding window; None if it must not.
        interleaved: whether the rows of queries and keys stand as rotary pairs (0, 1), (2, 3), …
            within a head; those of transformers stand as (0, d/2), (1, d/2 + 1), …
        biases: the layers' tensors with a bias.
    """

    architecture: str
    windowed: str | None = None
    interleaved: bool = False
    biases: frozenset[str] = frozenset()


FAMILIES = {
    # Files of Mistral say llama, too.
    "llama": GgufFamily("LlamaForCausalLM", windowed="MistralForCausalLM", interleaved=True),
    "qwen2": GgufFamily("Qwen2ForCausalLM", biases=frozenset({"attn_q", "attn_k", "attn_v"})),
    "qwen3": GgufFamily("Qwen3ForCausalLM"),
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
