"""A mixture of experts: products with the weights of each row's expert, and the weighted sum."""

from __future__ import annotations

from torch import Tensor

from csrc_triton.checks import Gate, check_gate, check_slots, require
from csrc_triton.contracts import dispatch
from csrc_triton.routing import Routing


def grouped_linear(
    x: Tensor, weights: Tensor, routing: Routing, outputs: int, *, gate: Gate | None = None
) -> Tensor:
    """The product of each slot's row with the weight of the slot's expert: x W_eᵀ.

    One launch for all experts. One without slots costs nothing: its weights are not read. On a CPU
    the bits of a row depend neither on the other rows nor on their number. On a GPU they may depend
    on the number of slots, which chooses the sizes of tiles.

    Args:
        x: [N, in], the row of slot s is s // k; or [N * k, in], a row for each slot.
        weights: of x's dtype, [E, out, in], or on a CPU the `pack_weight` of each expert:
            [E, blocks, in, 16]. Other weights and dtypes are slow there: plain torch multiplies.
        routing: the slots of each expert.
        outputs: the last dim of the result: out, or F of gated weights.
        gate: what `gated_activation` applies behind the product; out is then 2 F.

    Returns:
        [N * k, outputs], a row for each slot, in the order of slots.

    Raises:
        ValueError: shapes or dtypes disagree, or there is no such gate.
    """
    check_gate(gate)
    experts = routing.num_experts
    check_slots(x, routing.slots.shape[0], routing.top_k)
    halves = 2 if gate else 1
    if weights.dim() == 4:
        blocks = -(-outputs // weights.shape[3]) * halves
        fits = weights.shape[:3] == (experts, blocks, x.shape[1])
    else:
        fits = weights.shape == (experts, outputs * halves, x.shape[1])
    message = "weights {} for {} experts of {} outputs, x {}"
    require(fits, message, weights.shape, experts, outputs, x.shape)
    require(weights.dtype == x.dtype, "weights are {}, x is {}", weights.dtype, x.dtype)
    product: Tensor = dispatch.implementation(x, "experts").grouped_linear(
        x, weights, routing, outputs, gate
    )
    return product


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """The sum of each token's rows times their weights, in fp32 and in the order of the slots.

    Args:
        rows: [N * k, D], what `grouped_linear` returns.
        weights: [N, k], of the dtype of the rows.

    Returns:
        [N, D] like the rows.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    fits = rows.dim() == weights.dim() == 2 and rows.shape[0] == weights.numel()
    require(fits, "rows {} for weights {}", rows.shape, weights.shape)
    require(rows.dtype == weights.dtype, "rows are {}, weights {}", rows.dtype, weights.dtype)
    total: Tensor = dispatch.implementation(rows, "experts").weighted_sum(rows, weights)
    return total
