// The gates of gated products.

#pragma once

#include "vector.h"

enum { NO_GATE, SILU, GELU_TANH };

// x (1 + tanh t) / 2 = x / (1 + e^-2t) with t = sqrt(2 / pi) (x + 0.044715 x^3). Unlike the first
// form, the second one cancels no digits where x is far below 0.
INLINE v16 gelu_tanh(v16 x) {
  v16 twice = 1.5957691216057308f * (x + 0.044715f * x * x * x);
  return x / (1.0f + exponential(-twice));
}

INLINE v16 silu(v16 x) { return x / (1.0f + exponential(-x)); }

// f(x) * up; f(x) is rounded to the dtype before the product, as in transformers.
INLINE v16 gated(int gate, v16 x, v16 up) {
  return rounded(gate == SILU ? silu(x) : gelu_tanh(x)) * up;
}
