// The gate of SwiGLU.

#pragma once

#include "vector.h"

// silu(gate) * up; silu is rounded to the dtype before the product, as in transformers.
INLINE v16 gated(v16 gate, v16 up) { return rounded(gate / (1.0f + exponential(-gate))) * up; }
