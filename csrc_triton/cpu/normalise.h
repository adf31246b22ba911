// RMSNorm of one row, which is a row of hidden states or a head of queries or keys.

#pragma once

#include "vector.h"

// The weight of a norm: numbers of the dtype, or floats, or neither.
typedef struct {
  const element* narrow;
  const float* wide;
} Weight;

INLINE Weight weight_of(const void* numbers, long wide) {
  return wide ? (Weight){0, numbers} : (Weight){numbers, 0};
}

// out = x / sqrt(mean(x^2) + eps) * weight, rounded to the dtype before a weight of that dtype.
static void normalise(const element* x, Weight weight, long size, float eps, element* out) {
  v16 squares = {0};
  for (long d = 0; d < size; d += LANES) {
    v16 some = load_up_to(x + d, size - d);
    squares += some * some;
  }
  float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)size + eps);
  for (long d = 0; d < size; d += LANES) {
    long left = size - d;
    v16 some = load_up_to(x + d, left) * scale;
    some = weight.wide ? some * load_floats_up_to(weight.wide + d, left)
                       : rounded(some) * load_up_to(weight.narrow + d, left);
    store_up_to(out + d, some, left);
  }
}
