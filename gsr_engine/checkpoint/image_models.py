"""Models that see images, too: their language model runs, and nothing else of them."""

from __future__ import annotations

from typing import Any

from gsr_engine.checkpoint.families import FAMILIES
from gsr_engine.checkpoint.fields import Fields
from gsr_engine.errors import UnsupportedModel, shown

IMAGE_MODELS = ("Gemma3ForConditionalGeneration", "Mistral3ForConditionalGeneration")
"""Architectures whose `text_config` is the shape of a language model of `FAMILIES`."""
_OUTSIDE = ("tie_word_embeddings", "dtype", "torch_dtype", "quantization_config")
"""Fields beside `text_config` that count for the language model."""


def language_model(raw: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The `config.json` of the language model, and a note; as it is if there are no images.

    Raises:
        CheckpointError: `text_config` is missing or no object.
        UnsupportedModel: its family does not run.
    """
    named = raw.get("architectures")
    if not isinstance(named, list) or not named or named[0] not in IMAGE_MODELS:
        return raw, None
    text = Fields("config.json", raw).mapping("text_config")
    families = {family.model_type: name for name, family in FAMILIES.items()}
    kind = text.get("model_type")
    if not isinstance(kind, str) or kind not in families:
        raise UnsupportedModel(f"config.json: text_config of type {shown(kind)} is not supported")
    outside = {name: raw[name] for name in _OUTSIDE if raw.get(name) is not None}
    # Transformers ties the head where the whole model says so.
    tied = {"tie_word_embeddings": raw.get("tie_word_embeddings", True)}
    shape = {**text, **outside, **tied, "architectures": [families[kind]]}
    return shape, f"{named[0]}: its language model alone runs; images are not read"
