// Symmetric 8-bit quantisation: a number is its scale times an integer from -127 to 127. Each row,
// be it of x or of a weight, has a scale for every `group` inputs.

#pragma once

#include "vector.h"

#define MOST 127.0f
// Numbers that are all smaller count as 0: 127 over a smaller one could be infinite.
#define LEAST 1e-30f

// `padded` is inputs, rounded up to whole steps of every chip. The last group may be shorter.
typedef struct {
  long inputs, padded, group, groups;
} Groups;

INLINE Groups groups_of(long inputs, long group) {
  return (Groups){inputs, (inputs + 3) / 4 * 4, group, (inputs + group - 1) / group};
}

INLINE long end_of(long group, long size, long inputs) {
  return (group + 1) * size < inputs ? (group + 1) * size : inputs;
}

typedef struct {
  float scale, inverse;
} Scale;

// The scale of some numbers; a NaN if one of them is a NaN or infinite.
INLINE Scale scale_of(const element* x, long n) {
  v16 most = {0}, not_finite = {0};
  for (long i = 0; i < n; i += LANES) {
    v16 size = (v16)((i16)load_up_to(x + i, n - i) & 0x7fffffff);
    most = greater(most, size);
    not_finite += size * 0.0f;
  }
  float size = greatest_lane(most), nan = sum_lanes(not_finite);
  if (nan != nan || size < LEAST) return (Scale){nan, 0.0f};
  return (Scale){size / MOST, MOST / size};
}

// The nearest integers, ties to even. All are 0 if the scale is a NaN.
INLINE i16 quantized(v16 x, Scale scale) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: the sum has the integer in its low bits
  v16 shifted = x * scale.inverse + shift;
  return (i16)choose(shifted == shifted, shifted, all_lanes(shift)) - 0x4b400000;
}
