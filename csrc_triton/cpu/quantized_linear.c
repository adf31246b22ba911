// y = x Wᵀ + b, or with a gate f(x Gᵀ) * (x Uᵀ), in 8 bits: sums of a group of inputs are exact
// integers, and enter y with the scale of the row's group and that of the output's group.

#include "dot.h"
#include "parallel.h"
#include "product.h"
#include "quantize.h"

// Weights are fetched into the cache so many inputs ahead: at the end of a block, those of the block
// that comes next.
#define AHEAD 32
// Rows that are packed at once, at most.
#define AT_MOST 256

// `padded` is the number of inputs rounded up to the next multiple of 4. The rows of x are packed in tiles: numbers
// [padded / STEP][rows][STEP], and for each group [rows] scales and what the sums begin at.
typedef struct {
  Product product;
  const unsigned char* weights;
  const float* scales;
  long padded, group, groups;
  float* x_scales;
  int* starts;
  number* numbers;
} Quantized;

INLINE long multiple_of(long size, long n) { return (n + size - 1) / size * size; }

INLINE long end_of(const Quantized* w, long group, long inputs) {
  long end = (group + 1) * w->group;
  return end < inputs ? end : inputs;
}

static void pack_group(const Quantized* w, const element* x, long tile, int rows, int row,
                       long group) {
  number* numbers = w->numbers + tile * TILE * w->padded + row * STEP;
  long begin = group * w->group, end = end_of(w, group, w->product.inputs);
  Scale scale = scale_of(x + begin, end - begin);
  i16 sums = {0};
  for (long i = begin; i < end; i += LANES) {
    i16 some = quantized(load_up_to(x + i, end - i), scale);
    sums += some;
    number narrow[LANES];
    for (int lane = 0; lane < LANES; lane++) narrow[lane] = (number)some[lane];
    long width = multiple_of(STEP, end - i);
    for (int lane = 0; lane < LANES && lane < width; lane += STEP)
      __builtin_memcpy(numbers + (i + lane) * rows, narrow + lane, STEP * sizeof(number));
  }
  int sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  long place = (tile * TILE * w->groups) + group * rows + row;
  w->x_scales[place] = scale.scale;
  w->starts[place] = -ZERO * sum;
}

static void pack_rows(const void* work, long tile) {
  const Quantized* w = work;
  const Product* product = &w->product;
  int rows = rows_of(product, tile);
  for (int row = 0; row < rows; row++) {
    const element* x = product->x + slot_of(product, tile * TILE + row) / product->slots_per_x *
                                        product->inputs;
    for (long group = 0; group < w->groups; group++) pack_group(w, x, tile, rows, row, group);
  }
}

// The products of a tile with consecutive blocks.
INLINE void multiply_bytes(int rows, int blocks, const Quantized* w, long tile, long first,
                           Sums* totals) {
  const number* x = w->numbers + tile * TILE * w->padded;
  const unsigned char* weights = w->weights + first * w->padded * LANES;
  for (long group = 0; group < w->groups; group++) {
    long place = tile * TILE * w->groups + group * rows;
    long end = end_of(w, group, w->padded);
    i16 sums[ACCUMULATORS];
    UNROLL for (int r = 0; r < rows; r++) {
      UNROLL for (int b = 0; b < blocks; b++) {
        sums[r * blocks + b] = w->starts[place + r] - (i16){0};
      }
    }
    for (long i = group * w->group; i < end; i += STEP) {
      Weights some[GROUP];
      long ahead = i + AHEAD < w->padded ? i + AHEAD : i + AHEAD + (blocks - 1) * w->padded;
      UNROLL for (int b = 0; b < blocks; b++) {
        some[b] = load_weights(weights + (b * w->padded + i) * LANES);
        __builtin_prefetch(weights + (b * w->padded + ahead) * LANES);
      }
      UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int b = 0; b < blocks; b++) {
          sums[r * blocks + b] =
              add_products(sums[r * blocks + b], x + i * rows + r * STEP, some[b]);
        }
      }
    }
    UNROLL for (int b = 0; b < blocks; b++) {
      v16 scale = load_floats(w->scales + ((first + b) * w->groups + group) * LANES);
      UNROLL for (int r = 0; r < rows; r++) {
        v16 total = group ? load_floats(totals[b][r]) : (v16){0};
        total += __builtin_convertvector(sums[r * blocks + b], v16) *
                 (scale * w->x_scales[place + r]);
        store_floats(totals[b][r], total);
      }
    }
  }
}

// How many blocks go with a number of rows at once. All divide GROUP.
#if TILE == 8
#define FOR_EACH_ROWS(CALL) \
  CALL(1, 6) CALL(2, 6) CALL(3, 6) CALL(4, 6) CALL(5, 3) CALL(6, 3) CALL(7, 3) CALL(8, 3)
#else
#define FOR_EACH_ROWS(CALL) CALL(1, 3) CALL(2, 2) CALL(3, 2) CALL(4, 1) CALL(5, 1) CALL(6, 1)
#endif

#define DEFINE(rows, at_once)                                                                 \
  static void multiply_##rows(const Quantized* w, long tile, long first, long count,          \
                              Sums* totals) {                                                 \
    long block = 0;                                                                           \
    for (; block + at_once <= count; block += at_once)                                        \
      multiply_bytes(rows, at_once, w, tile, first + block, totals + block);                  \
    for (; block < count; block++)                                                            \
      multiply_bytes(rows, 1, w, tile, first + block, totals + block);                        \
  }
FOR_EACH_ROWS(DEFINE)

// A task's blocks of outputs for all rows: those that share weights of the L2 cache one by one.
static void quantized_task(const void* work, long task) {
  const Quantized* w = work;
  const Product* product = &w->product;
  long begin = task * product->blocks_per_task, end = begin + product->blocks_per_task;
  if (end > product->blocks) end = product->blocks;
  long step = product->gate ? 2 : 1;
  for (long first = begin; first < end; first += GROUP) {
    long count = end - first < GROUP ? end - first : GROUP;
    for (long tile = 0; tile * TILE < product->rows; tile++) {
      Sums totals[GROUP];
      switch (rows_of(product, tile)) {
#define CALL(rows, at_once) \
  case rows: multiply_##rows(w, tile, first, count, totals); break;
        FOR_EACH_ROWS(CALL)
#undef CALL
      }
      for (long block = 0; block < count; block += step)
        store_outputs(product, tile, (first + block) / step, totals + block);
    }
  }
}

// `scratch` has room for two numbers of 4 bytes for each group, and one of 2 bytes for each padded input,
// of each of the rows, or of AT_MOST of them.

void quantized_linear(element* out, const element* x, const unsigned char* weights,
                      const float* scales, const element* bias, float* scratch, long rows,
                      long inputs, long outputs, long group, long gate, long threads) {
  for (long begin = 0; begin < rows; begin += AT_MOST) {
    long count = rows - begin < AT_MOST ? rows - begin : AT_MOST;
    long groups = (inputs + group - 1) / group;
    Quantized work = {
        .product = {.out = out + begin * outputs,
                    .x = x + begin * inputs,
                    .bias = bias,
                    .rows = count,
                    .slots_per_x = 1,
                    .inputs = inputs,
                    .outputs = outputs,
                    .gate = (int)gate},
        .weights = weights,
        .scales = scales,
        .padded = multiple_of(4, inputs),
        .group = group,
        .groups = groups,
        .x_scales = scratch,
        .starts = (int*)(scratch + count * groups),
        .numbers = (number*)(scratch + 2 * count * groups),
    };
    divide(&work.product, 1, count, threads);
    long packers = count * inputs < 1 << 16 ? 1 : threads;
    parallel_for((count + TILE - 1) / TILE, packers, pack_rows, &work);
    parallel_for(tasks_of(&work.product), threads, quantized_task, &work);
  }
}
