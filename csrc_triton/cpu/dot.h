// Exact sums of products of 8-bit integers: 16 outputs at once, and STEP inputs of each.
//
// Weights are stored as [inputs / STEP][16][STEP] bytes; a weight of 0 is stored as ZERO. The
// numbers of a row of x lie side by side. Sums have 32 bits and nothing saturates: a chip that does
// not add four products of bytes at once multiplies pairs of 16-bit integers. AVX2's product of
// bytes saturates. It was 1.35 times as fast at 64 rows, but costs the weights a bit, and that
// triples what 8 bits add to a model's loss.

#pragma once

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

// A part of 16 lanes is a register. `spread` puts one integer into all of a part's lanes.
#if defined(__AVX512BW__)

#define PARTS 1
#define WIDE(name) _mm512_##name
typedef __m512i part;
typedef __m256i half_part;

#elif defined(__AVX2__)

#define PARTS 2
#define WIDE(name) _mm256_##name
typedef __m256i part;
typedef __m128i half_part;

#elif defined(__ARM_FEATURE_DOTPROD)

#define PARTS 4
typedef int32x4_t part;

INLINE part spread(int x) { return vdupq_n_s32(x); }

#else

#define PARTS 1
typedef i16 part;

INLINE part spread(int x) { return x - (i16){0}; }

#endif

#if defined(WIDE)
INLINE part spread(int x) { return WIDE(set1_epi32)(x); }
#endif

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512BW__))

// The instruction takes one factor without a sign: the weights are stored with 128 added.
#define STEP 4
#define ZERO 128
typedef signed char number;

#if defined(__AVX512VNNI__)
#define DOT _mm512_dpbusd_epi32
#else
#define DOT _mm256_dpbusd_avx_epi32
#endif

INLINE part load_part(const unsigned char* from) {
  part x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

INLINE part add_part(part sum, part x, part weights) { return DOT(sum, weights, x); }

#elif defined(WIDE)

#define STEP 2
#define ZERO 0
typedef short number;

INLINE part load_part(const unsigned char* from) {
  half_part x;
  __builtin_memcpy(&x, from, sizeof x);
  return WIDE(cvtepi8_epi16)(x);
}

INLINE part add_part(part sum, part x, part weights) {
  return WIDE(add_epi32)(sum, WIDE(madd_epi16)(weights, x));
}

#elif defined(__ARM_FEATURE_DOTPROD)

#define STEP 4
#define ZERO 0
typedef signed char number;

INLINE part load_part(const unsigned char* from) {
  return vreinterpretq_s32_s8(vld1q_s8((const signed char*)from));
}

INLINE part add_part(part sum, part x, part weights) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(x));
}

#else

#define STEP 1
#define ZERO 0
typedef int number;
typedef signed char s8x16 __attribute__((vector_size(16)));

INLINE part load_part(const unsigned char* from) {
  s8x16 bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, i16);
}

INLINE part add_part(part sum, part x, part weights) { return sum + x * weights; }

#endif

// The bytes of a part's weights.
#define PART_BYTES (LANES / PARTS * STEP)

// STEP numbers of a row, for all lanes.
INLINE part spread_numbers(const number* x) {
  int together;
  __builtin_memcpy(&together, x, sizeof together);
  return spread(together);
}

INLINE v16 floats_of(const part* sums) {
  i16 integers;
  __builtin_memcpy(&integers, sums, sizeof integers);
  return __builtin_convertvector(integers, v16);
}
