// How many rows a kernel takes at once.

#pragma once

#include "vector.h"

// As many rows as the chip has registers for their sums.
#if defined(__AVX512F__)
#define TILE 8
#else
#define TILE 6
#endif
#define ACCUMULATORS 24
#define MOST_AT_ONCE 4

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// The compiler makes one copy of a function for each number of rows. `CALL` takes that number, and
// how many vectors go with it at once: a single chain of additions would wait for itself.
#if TILE == 8
#define FOR_EACH_WIDTH(CALL) \
  CALL(1, 4) CALL(2, 4) CALL(3, 4) CALL(4, 4) CALL(5, 4) CALL(6, 4) CALL(7, 3) CALL(8, 3)
#else
#define FOR_EACH_WIDTH(CALL) CALL(1, 4) CALL(2, 2) CALL(3, 2) CALL(4, 1) CALL(5, 1) CALL(6, 1)
#endif
