// Exact sums of products of 8-bit integers: 16 outputs at once, and STEP inputs of each.
//
// Weights are stored as [inputs / STEP][16][STEP] bytes; a weight of 0 is stored as ZERO. A row's
// numbers lie side by side. The sums are 32 bits wide and nothing saturates: where a chip adds no
// four products at once, pairs are multiplied as 16-bit integers. This costs no more instructions
// of the multiplier than the saturating product of bytes, which needs a second one to widen.

#pragma once

#include "vector.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

// One register holds 16 sums with AVX-512, and two do with AVX2.
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
#endif

#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512BW__))

// The instruction takes one factor without a sign: the weights are stored with 128 added.
#define STEP 4
#define ZERO 128
typedef signed char number;
typedef struct { part parts[PARTS]; } Weights;

INLINE part load_part(const unsigned char* from) {
  part x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}

#if defined(__AVX512VNNI__)
#define DOT _mm512_dpbusd_epi32
#else
#define DOT _mm256_dpbusd_avx_epi32
#endif

INLINE part add_part(part sum, part x, part weights) { return DOT(sum, weights, x); }

#elif defined(PARTS) && defined(WIDE)

#define STEP 2
#define ZERO 0
typedef short number;
typedef struct { part parts[PARTS]; } Weights;

INLINE part load_part(const unsigned char* from) {
  half_part x;
  __builtin_memcpy(&x, from, sizeof x);
  return WIDE(cvtepi8_epi16)(x);
}

INLINE part add_part(part sum, part x, part weights) {
  return WIDE(add_epi32)(sum, WIDE(madd_epi16)(weights, x));
}

#elif defined(PARTS)

#define STEP 4
#define ZERO 0
typedef signed char number;
typedef int32x4_t part;
typedef struct { part parts[PARTS]; } Weights;

INLINE part load_part(const unsigned char* from) {
  return vreinterpretq_s32_s8(vld1q_s8((const signed char*)from));
}

INLINE part add_part(part sum, part x, part weights) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(x));
}

#else

#define STEP 1
#define ZERO 0
typedef signed char number;
typedef i16 Weights;
typedef signed char s8x16 __attribute__((vector_size(16)));

INLINE Weights load_weights(const unsigned char* from) {
  s8x16 bytes;
  __builtin_memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, i16);
}

INLINE i16 add_products(i16 sum, const number* x, Weights weights) { return sum + *x * weights; }

#endif

#if defined(PARTS)

INLINE part same_everywhere(int x) {
#if defined(WIDE)
  return WIDE(set1_epi32)(x);
#else
  return vdupq_n_s32(x);
#endif
}

INLINE Weights load_weights(const unsigned char* from) {
  Weights weights;
  for (int p = 0; p < PARTS; p++) weights.parts[p] = load_part(from + p * LANES * STEP / PARTS);
  return weights;
}

INLINE i16 add_products(i16 sum, const number* x, Weights weights) {
  int together;
  __builtin_memcpy(&together, x, sizeof together);
  part parts[PARTS];
  __builtin_memcpy(parts, &sum, sizeof sum);
  for (int p = 0; p < PARTS; p++)
    parts[p] = add_part(parts[p], same_everywhere(together), weights.parts[p]);
  __builtin_memcpy(&sum, parts, sizeof sum);
  return sum;
}

#endif
