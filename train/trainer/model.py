"""The model that is trained: transformers' own layers, sharded by FSDP2, with the loss inside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from gsr_engine.checkpoint.files import is_gguf, read_json
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from gsr_engine.errors import CheckpointError, UnsupportedModel
from train.objectives import OBJECTIVES
from train.trainer.attention import ATTENTION
from train.trainer.batches import PackedBatch
from train.trainer.config import Checkpointing, SftConfig
from train.trainer.lora import add_adapters, reset_adapters
from train.trainer.loss import target_losses
from train.trainer.sharded import fill


class Trainee(torch.nn.Module):
    """A causal language model whose forward is the loss, so all logits never exist at once."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """Hidden states [N, H] that predict the targets."""
        states: torch.Tensor = self.hf.model(
            input_ids=batch.token_ids,
            position_ids=batch.positions,
            # transformers makes no mask for our attention, and passes `packed` on to it.
            attention_mask=None,
            packed=batch.mask,
            use_cache=False,
        ).last_hidden_state
        return states[0, batch.predicting]

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Summed cross-entropy of the targets of each objective, fp32 [len(OBJECTIVES)]."""
        losses = target_losses(self.hidden(batch), self.hf.lm_head.weight, batch.targets)
        return losses.new_zeros(len(OBJECTIVES)).index_add(0, batch.objectives, losses)


def build_model(model_config: PretrainedConfig, config: SftConfig, mesh: DeviceMesh) -> Trainee:
    """A sharded model without values, which `load_weights` fills.

    Every rank allocates only its part of the parameters.
    """
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(
            model_config, dtype=torch.float32, attn_implementation=ATTENTION
        )
    if config.lora:
        add_adapters(hf, config.lora, config.lora_alpha, config.lora_dropout)
    _checkpoint_activations(hf, config.checkpointing)
    trainee = Trainee(hf).train()
    if config.compile:
        for layer in hf.model.layers:
            layer.compile()
    _shard(trainee, mesh, getattr(torch, config.dtype))
    trainee.to_empty(device=mesh.device_type)
    hf.tie_weights()  # `to_empty` untied a tied head
    _compute_buffers(hf, model_config, mesh.device_type)
    return trainee


def load_weights(trainee: Trainee, folder: Path) -> list[str]:
    """Read this rank's part of the parameters from the safetensors of a checkpoint.

    Returns, in words, what of the checkpoint is not read or read otherwise than it says.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    model = ModelConfig.from_folder(folder)
    with open_tensors(folder, model) as stored:
        for name, parameter in stored_tensors(trainee).items():
            fill(parameter, stored.read(name, tuple(parameter.shape)))
        notes = [*model.notes, *stored.notes]
    reset_adapters(trainee.hf)
    return notes


def stored_tensors(trainee: Trainee) -> dict[str, Any]:
    """Parameters by their names in a checkpoint: a tied head once, and no adapters."""
    named = trainee.hf.named_parameters()  # of two tied parameters only the first
    return {
        name.replace(".base_layer.", "."): parameter.data
        for name, parameter in named
        if ".lora_" not in name
    }


def read_model_config(folder: Path) -> PretrainedConfig:
    """The model's shape, from its config.json and the names of its weights.

    Raises:
        CheckpointError: the file is broken, or transformers does not take it.
        UnsupportedModel: the trainer does not reproduce the model: see `gsr_engine.checkpoint`.
    """
    config, model = transformers_config(folder)
    with open_tensors(folder, model) as stored:
        config.tie_word_embeddings = stored.config.tie_embeddings
    return config


def transformers_config(folder: Path) -> tuple[PretrainedConfig, ModelConfig]:
    """A config.json as transformers and as the engine read it; weights are not needed.

    Raises:
        CheckpointError, UnsupportedModel: as `read_model_config`.
    """
    if is_gguf(folder):
        raise UnsupportedModel(
            f"{folder.name}: a GGUF file is not trained; train the checkpoint that it was made from"
        )
    raw = read_json(folder / "config.json")
    model = ModelConfig.from_dict(raw)
    if "text_config" in raw or not model.family.trained:
        raise UnsupportedModel(
            f"config.json: the trainer does not reproduce {model.architecture}; the engine runs it"
        )
    if model.fp8 is not None:
        raise UnsupportedModel(
            "config.json: quantization_config is not supported in training; train the checkpoint "
            "that it was made from"
        )
    if model.rope["rope_type"] == "longrope":
        raise UnsupportedModel(
            "config.json: rope type 'longrope' is not supported in training: the factors would "
            "change with the longest row of a batch"
        )
    if model.attention_dropout:
        raise UnsupportedModel(
            f"config.json: attention_dropout {model.attention_dropout:g} is not supported in "
            "training; 0 trains without it"
        )
    make = CONFIG_MAPPING[model.family.model_type]
    shape = {name: raw[name] for name in raw if name not in ("dtype", "torch_dtype")}
    try:
        config: PretrainedConfig = make(**shape)
    except Exception as error:
        raise CheckpointError(f"{folder}/config.json: {error!s:.300}") from None
    return config, model


def _shard(trainee: Trainee, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Shard each layer as a group; embedding, last norm and head are the group of the root.

    These stay together because a tied head is one parameter, and because the root's forward reads
    the head's weight for the loss.
    """
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in trainee.hf.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(trainee, mesh=mesh, mp_policy=policy)
    for module in trainee.modules():
        if isinstance(module, FSDPModule):
            # Losses are divided by the counts of the whole step before the backward, so gradients
            # are sums. gloo has no scaled sum, so both calls are needed.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _compute_buffers(hf: PreTrainedModel, config: PretrainedConfig, device: str) -> None:
    """Compute again what is not stored; `to_empty` dropped its values."""
    hf.model.rotary_emb = type(hf.model.rotary_emb)(config).to(device)
    for name, buffer in hf.named_buffers():
        if name == "model.embed_tokens.embed_scale":  # Gemma's
            buffer.fill_(hf.model.embed_tokens.scalar_embed_scale)
        elif not name.startswith("model.rotary_emb."):
            raise UnsupportedModel(f"the trainer does not know the buffer {name}")


_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.higher_order.flex_attention,
}
"""Operations whose results selective checkpointing keeps, because recomputing them is slow."""


def _checkpoint_activations(hf: PreTrainedModel, mode: Checkpointing) -> None:
    """Recompute activations in the backward. This is inside the compiled and sharded layers."""
    if mode == "none":
        return

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = operation in _KEPT
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    for layer in hf.model.layers:
        layer.forward = _checkpointed(layer.forward, options)


def _checkpointed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """A function, because torch.compile would silently skip a `partial`."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, **options, **kwargs)

    return recomputed
