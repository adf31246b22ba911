// RMSNorm of one row, which is a row of hidden states or a head of queries or keys.

#pragma once

#include "vector.h"

// out = x / sqrt(mean(x^2) + eps) * weight, rounded to the dtype before the weight.
static void normalise(const element* x, const element* weight, long size, float eps, element* out) {
  v16 squares = {0};
  for (long d = 0; d < size; d += LANES) {
    v16 some = load_up_to(x + d, size - d);
    squares += some * some;
  }
  float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)size + eps);
  for (long d = 0; d < size; d += LANES) {
    long left = size - d;
    v16 some = rounded(load_up_to(x + d, left) * scale) * load_up_to(weight + d, left);
    store_up_to(out + d, some, left);
  }
}
