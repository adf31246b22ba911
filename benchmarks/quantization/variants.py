"""What is quantised, and how: the variants of a decoder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from gsr_engine.checkpoint.gguf.header import read_header
from gsr_engine.errors import UnsupportedModel
from gsr_engine.model.decoder import Decoder, Layer, Mlp
from gsr_engine.model.linear import INT8_GROUP, Int8Linear, Linear

KEPT: dict[str, tuple[str, ...]] = {
    "all linears": (),
    "all but head": ("head",),
    "all but head, down, o": ("head", "down", "output"),
}
"""Which linears stay in fp32."""
_BLOCKS = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q4_K": 32, "Q6_K": 16}
"""Weights that share a scale, by GGUF's type."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A decoder with linears in 8 bits.

    Attributes:
        name: in tables.
        group: inputs that share a scale; None: all of a row.
        kept: fields of `Layer` and `Mlp`, and "head", that stay in fp32.
    """

    name: str
    group: int | None
    kept: Collection[str] = ()

    def of(self, decoder: Decoder) -> Decoder:
        """The same decoder with those linears in 8 bits; what stays is not copied.

        Raises:
            UnsupportedModel: a layer has experts.
        """
        return replace(
            decoder,
            layers=[self._layer(layer) for layer in decoder.layers],
            head=self._linear("head", decoder.head),
        )

    def _layer(self, layer: Layer) -> Layer:
        if not isinstance(layer.mlp, Mlp):
            raise UnsupportedModel("experts in 8 bits are not measured")
        return replace(
            layer,
            qkv=self._linear("qkv", layer.qkv),
            output=self._linear("output", layer.output),
            mlp=Mlp(
                self._linear("gate_up", layer.mlp.gate_up), self._linear("down", layer.mlp.down)
            ),
        )

    def _linear(self, name: str, linear: Linear) -> Linear:
        if name in self.kept:
            return linear
        return Int8Linear.of(linear.dense(), linear.bias, linear.gate, self.group)


GROUPS: dict[str, int | None] = {"rows": None, "g128": 128, "g64": 64, "g32": 32}
VARIANTS = tuple(
    Variant(f"{group}, {kept}", size, names)
    for kept, names in KEPT.items()
    for group, size in GROUPS.items()
)
DEFAULT = next(variant for variant in VARIANTS if (variant.group, variant.kept) == (INT8_GROUP, ()))
"""What the engine does with quantization "int8"."""


def own_blocks(file: Path) -> Variant:
    """The variant whose groups are the blocks of a GGUF file's matrices, the smallest of them.

    Integers of Q8_0 stay what they are. Other types become the nearest integers from -127 to 127.

    Raises:
        UnsupportedModel: no matrix of the file is quantised.
    """
    tensors = read_header(file).tensors.values()
    kinds = {one.kind for one in tensors if len(one.shape) > 1}
    sizes = [_BLOCKS[kind] for kind in kinds if kind in _BLOCKS]
    if not sizes:
        raise UnsupportedModel(f"{file.name} has no quantised matrix")
    return Variant(f"the file's own blocks ({', '.join(sorted(kinds))})", min(sizes))
