"""How a checkpoint wants to be sampled: its generation_config.json, or a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from gsr_engine.checkpoint.files import beside, is_gguf, read_json
from gsr_engine.checkpoint.gguf.config import sampling_fields
from gsr_engine.errors import CheckpointError, InvalidRequest, check_choice, shown
from gsr_engine.params import SamplingParams

Choice = Literal["auto", "none"]
"""Whether None in `SamplingParams` takes what the checkpoint states, or the engine's own values."""

OWN: Mapping[str, float] = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""The engine's own values of the fields that may be None: the distribution of the model."""

_WITHOUT_EFFECT = frozenset(
    {
        # Read by the tokenizer, or bookkeeping. Names that begin with "_" are, too.
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("transformers_version", "return_dict_in_generate", "trust_remote_code"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        # How transformers caches and compiles.
        *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("compile_config", "disable_compile", "remove_invalid_values", "renormalize_logits"),
        # Speculation, which keeps the distribution.
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size", "use_mtp"),
        # Only beam search reads them, and `num_beams` is named.
        *("early_stopping", "num_beam_groups", "diversity_penalty", "length_penalty"),
    }
)
_NEUTRAL = {
    **dict.fromkeys(("do_sample", "num_beams", "num_return_sequences", "guidance_scale"), 1),
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty"), 1.0),
    "max_length": 20,
}
"""Values with which a field changes nothing (`max_length`: transformers' old default)."""
_OFF: tuple[object, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What a checkpoint states of the fields of `SamplingParams` that may be None.

    As in vLLM, a stated value counts whatever `do_sample` says, and a field that the file does not
    state takes the engine's own value. (Transformers would keep the 50 likeliest tokens then.)

    Attributes:
        stated: the values, by the name of the field.
        notes: what else it states and the engine does not apply.
    """

    stated: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Path, choice: Choice | None = None, adapter: Path | None = None
    ) -> GenerationConfig:
        """What None stands for with a checkpoint.

        Args:
            checkpoint: a folder, or a GGUF file.
            choice: "auto" reads its file, "none" does not. None is "auto", but "none" for a
                checkpoint with `gsr.json`, because that was trained on samples at temperature 1.
            adapter: the folder of an adapter over it, which may have a `gsr.json` of its own.

        Raises:
            CheckpointError: the file cannot be read, or a value is out of range.
            InvalidRequest: another choice.
        """
        if choice is None:
            folders = [one for one in (checkpoint, adapter) if one is not None]
            trained = any(beside(one, "gsr.json").exists() for one in folders)
            choice = "none" if trained else "auto"
        check_choice("generation_config", choice, get_args(Choice))
        path = beside(checkpoint, "generation_config.json")
        if choice == "none":
            return cls()
        if path.exists():
            return cls.from_fields(str(path), read_json(path))
        if is_gguf(checkpoint):
            return cls.from_fields(str(checkpoint), sampling_fields(checkpoint))
        return cls()

    @classmethod
    def from_fields(cls, where: str, raw: Mapping[str, Any]) -> GenerationConfig:
        """From the fields of the file, wherever they are kept; `where` names that place.

        Raises:
            CheckpointError: a value has another type or is out of range.
        """
        stated = {name: raw[name] for name in OWN if raw.get(name) is not None}
        try:
            made = SamplingParams(**stated)
        except InvalidRequest as error:
            raise CheckpointError(
                f"{where}: {error}; generation_config='none' does not read it"
            ) from None
        # Kept as SamplingParams keeps them: top_k -1 is 0.
        return cls({name: getattr(made, name) for name in stated}, _notes(where, raw))

    def fill(self, params: SamplingParams, own: Collection[str] = ()) -> SamplingParams:
        """The parameters with a number in every field that may be None.

        Args:
            params: the parameters. At temperature 0 nothing is taken that changes no draw.
            own: fields that take the engine's own value, whatever is stated.
        """
        if params.temperature == 0:
            own = [name for name in OWN if name != "repetition_penalty" or name in own]
        values: dict[str, Any] = {
            name: default if name in own else self.stated.get(name, default)
            for name, default in OWN.items()
            if getattr(params, name) is None
        }
        return replace(params, **values) if values else params


def _notes(where: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What is stated and not applied: one note for `do_sample`, one for all other fields."""
    notes = []
    if raw.get("do_sample") is False:
        notes.append(f"{where}: do_sample=false is not applied: temperature=0 is greedy")
    others = [
        f"{name}={shown(value)}"
        for name, value in raw.items()
        if name not in OWN and name not in _WITHOUT_EFFECT and not name.startswith("_")
        if value not in _OFF and value != _NEUTRAL.get(name)
    ]
    if others:
        notes.append(f"{where}: not applied: {', '.join(others)}")
    return tuple(notes)
