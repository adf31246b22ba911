"""The fields of `config.json` that engine and trainer know: what is read, refused, without effect.

A field of none of these lists is not read; it is named to the user (`ModelConfig.notes`).
"""

from __future__ import annotations

from typing import Any

from gsr_engine.errors import UnsupportedModel, shown

READ = frozenset(
    {
        *("architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("rms_norm_eps", "max_position_embeddings", "original_max_position_embeddings"),
        *("tie_word_embeddings", "hidden_act", "dtype", "torch_dtype", "rope_theta"),
        *("rope_scaling", "rope_parameters", "attention_dropout", "bos_token_id"),
        *("eos_token_id", "pad_token_id", "quantization_config"),
    }
)
"""Read for every family; `bos_token_id` and its kin by the tokenizer."""

WITHOUT_EFFECT = frozenset(
    {
        # Bookkeeping of transformers and of the tools around it.
        *("name_or_path", "transformers_version"),
        *("auto_map", "use_cache", "return_dict", "output_attentions"),
        *("output_hidden_states", "initializer_range", "pretraining_tp", "id2label"),
        *("label2id", "num_labels", "problem_type", "task_specific_params"),
        *("finetuning_task", "prefix", "tokenizer_class", "torchscript", "use_bfloat16"),
        *("tf_legacy_loss", "is_decoder", "gradient_checkpointing", "unk_token_id"),
        *("sep_token_id", "decoder_start_token_id", "max_sequence_length", "is_llama_config"),
        *("unsloth_fixed", "unsloth_version", "transformers.js_config"),
        *("attn_implementation", "cache_implementation"),
        # Only Qwen2 and Qwen3 read it, and others inherited it.
        "max_window_layers",
        # Of the router's loss, which only training knows.
        *("output_router_logits", "router_aux_loss_coef"),
        # Settings of generation, which transformers 5 does not take from this file either.
        *("temperature", "top_p", "top_k", "typical_p", "repetition_penalty", "do_sample"),
        *("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
        *("num_return_sequences", "output_scores", "return_dict_in_generate"),
        *("early_stopping", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens"),
        *("begin_suppress_tokens", "max_length", "min_length", "max_new_tokens"),
        *("remove_invalid_values", "exponential_decay_length_penalty"),
    }
)
"""They change nothing that the model computes; no more do names that begin with "_"."""

_OFF: tuple[object, ...] = (False, 0, "", [], {})
_REFUSED: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(
        (
            *("attention_bias", "mlp_bias", "qkv_bias", "use_bias", "lm_head_bias", "alibi"),
            *("quantization", "compression_config", "add_bias_linear"),
            *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"),
            *("attn_logit_softcapping", "final_logit_softcapping", "logit_softcapping"),
            *("attn_logit_cap", "use_qk_norm", "qk_layernorm", "qk_norm", "clip_qkv"),
            *("parallel_attn", "use_parallel_residual", "no_rope_layers", "rope_interleaved"),
            *("attention_chunk_size", "attn_temperature_tuning", "num_kv_shared_layers"),
            *("kv_lora_rank", "q_lora_rank", "use_mrope", "use_bidirectional_attention"),
            *("is_encoder_decoder", "add_cross_attention", "chunk_size_feed_forward"),
            *("pruned_heads", "per_layer_config", "resid_pdrop", "embd_pdrop"),
        ),
        _OFF,
    ),
    **dict.fromkeys(
        (
            *("embedding_multiplier", "residual_multiplier", "lm_head_multiplier"),
            *("logits_scaling", "logit_scale", "key_multiplier", "scale_emb"),
            "partial_rotary_factor",
        ),
        (1,),
    ),
    **dict.fromkeys(("attention_multiplier", "query_pre_attn_scalar", "attention_scale"), ()),
    "hidden_act": ("silu",),
    "hidden_activation": ("silu",),
}
"""Fields that change what a model computes, with the values at which they change nothing. Null
changes nothing either, whatever the field."""


def check_fields(raw: dict[str, Any], read: frozenset[str]) -> list[str]:
    """The names of fields that are neither read nor known to be without effect, in their order.

    Args:
        raw: the object of `config.json`.
        read: fields that are read for this family, beside `READ`.

    Raises:
        UnsupportedModel: a field changes what the model computes, in a way that is not reproduced.
    """
    for name, neutral in _REFUSED.items():
        value = raw.get(name)
        if name not in read and value is not None and value not in neutral:
            usual = f", only {neutral[0]!r}" if neutral and neutral is not _OFF else ""
            raise UnsupportedModel(f"config.json: {name} {shown(value)} is not supported{usual}")
    known = READ | WITHOUT_EFFECT | _REFUSED.keys() | read
    return [
        name
        for name, value in raw.items()
        if name not in known and value is not None and not name.startswith("_")
    ]
