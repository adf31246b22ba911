// Vectors of 16 floats, and the elements of tensors that they are loaded from and stored to.
//
// The sources are compiled once for each dtype. `element` is a number of that dtype; arithmetic is
// fp32 always. A vector of 16 is one register with AVX-512, two with AVX2 and four with NEON.
// No kernel is compiled with relaxed rules for NaN and infinity: they are data here.

#pragma once

typedef float v16 __attribute__((vector_size(64)));
typedef int i16 __attribute__((vector_size(64)));
typedef unsigned u32x16 __attribute__((vector_size(64)));

#define INFINITE (__builtin_inff())
#define INLINE static inline __attribute__((always_inline))
#define LANES 16

INLINE v16 all_lanes(float x) { return x - (v16){0}; }

// Where the mask is -1, a; where it is 0, b.
INLINE v16 choose(i16 mask, v16 a, v16 b) { return (v16)((mask & (i16)a) | (~mask & (i16)b)); }

INLINE i16 lane_numbers(void) {
  return (i16){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

INLINE v16 load_floats(const float* from) {
  v16 x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

INLINE void store_floats(float* to, v16 x) { __builtin_memcpy(to, &x, sizeof x); }

// The next 16 floats of which n are left; lanes behind the end are 0, and are not stored.
INLINE v16 load_floats_up_to(const float* from, long n) {
  if (n >= LANES) return load_floats(from);
  float some[LANES] = {0};
  for (long i = 0; i < n; i++) some[i] = from[i];
  return load_floats(some);
}

INLINE void store_floats_up_to(float* to, v16 x, long n) {
  if (n >= LANES) return store_floats(to, x);
  for (long i = 0; i < n; i++) to[i] = x[i];
}

#ifdef BFLOAT16

typedef unsigned short element;
typedef unsigned short u16x16 __attribute__((vector_size(32)));

INLINE v16 load(const element* from) {
  u16x16 x;
  __builtin_memcpy(&x, from, sizeof x);
  return (v16)(__builtin_convertvector(x, u32x16) << 16);
}

// To the nearest bf16, ties to even. A NaN stays one: rounding could carry it to infinity.
INLINE u16x16 rounded_bits(v16 x) {
  u32x16 bits = (u32x16)x;
  u32x16 nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  i16 nan = x != x;
  nearest = ((u32x16)nan & ((bits >> 16) | 0x40)) | (~(u32x16)nan & nearest);
  return __builtin_convertvector(nearest, u16x16);
}

INLINE void store(element* to, v16 x) {
  u16x16 bits = rounded_bits(x);
  __builtin_memcpy(to, &bits, sizeof bits);
}

INLINE v16 rounded(v16 x) { return (v16)(__builtin_convertvector(rounded_bits(x), u32x16) << 16); }

INLINE float to_float(element x) {
  unsigned bits = (unsigned)x << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

#else

typedef float element;

INLINE v16 load(const element* from) { return load_floats(from); }

INLINE void store(element* to, v16 x) { store_floats(to, x); }

// What a number becomes that is stored and loaded again.
INLINE v16 rounded(v16 x) { return x; }

INLINE float to_float(element x) { return x; }

#endif

// The first n < 16 elements; the other lanes are 0.
INLINE v16 load_first(const element* from, long n) {
  element some[LANES] = {0};
  for (long i = 0; i < n; i++) some[i] = from[i];
  return load(some);
}

INLINE void store_first(element* to, v16 x, long n) {
  element some[LANES];
  store(some, x);
  for (long i = 0; i < n; i++) to[i] = some[i];
}

// The next 16 elements of which n are left; lanes behind the end are 0, and are not stored.
INLINE v16 load_up_to(const element* from, long n) {
  return n < LANES ? load_first(from, n) : load(from);
}

INLINE void store_up_to(element* to, v16 x, long n) {
  if (n < LANES)
    store_first(to, x, n);
  else
    store(to, x);
}

// The same order of additions always.
INLINE float sum_lanes(v16 x) {
  float y[LANES];
  store_floats(y, x);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) y[i] += y[i + width];
  return y[0];
}

// The greater one; a NaN in b is passed over.
INLINE v16 greater(v16 a, v16 b) { return choose(b > a, b, a); }

INLINE float greatest_lane(v16 x) {
  float y[LANES];
  store_floats(y, x);
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) y[i] = y[i + width] > y[i] ? y[i + width] : y[i];
  return y[0];
}

// e^x to 2 units in the last place; above 88.3 infinity, below -87.3 zero. A NaN stays NaN.
// x = n ln 2 + r, and e^r by its Taylor series to degree 7 over |r| <= (ln 2) / 2.
INLINE v16 exponential(v16 x) {
  const float shift =
      12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  v16 shifted = x * 1.44269504089f + shift;
  v16 n = shifted - shift;
  v16 r = x - n * 0.693359375f - n * -2.12194440e-4f;
  v16 p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  v16 scaled = (v16)((u32x16)p + ((u32x16)shifted << 23));  // unsigned: sums may wrap around
  scaled = choose(x > 88.3f, all_lanes(INFINITE), scaled);
  scaled = choose(x < -87.3f, all_lanes(0.0f), scaled);
  return choose(x != x, x, scaled);
}

INLINE float exponential_of(float x) { return exponential(all_lanes(x))[0]; }

// ln x of a finite x > 0. x = 2^n m with m in [sqrt(1/2), sqrt(2)), and with t = (m - 1) / (m + 1)
// ln m = 2 (t + t^3 / 3 + t^5 / 5 + ...).
INLINE float logarithm_of(float x) {
  int bits, n;
  __builtin_memcpy(&bits, &x, sizeof bits);
  n = (bits - 0x3f3504f3) >> 23;
  bits -= n << 23;
  float m;
  __builtin_memcpy(&m, &bits, sizeof m);
  float t = (m - 1.0f) / (m + 1.0f), square = t * t;
  float series = 1.0f / 11;
  series = series * square + 1.0f / 9;
  series = series * square + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  return 2.0f * t * square * series + 2.0f * t + (float)n * 0.693147180560f;
}
