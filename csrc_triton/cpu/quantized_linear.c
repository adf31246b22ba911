// y = x Wᵀ + b, or with a gate f(x Gᵀ) * (x Uᵀ), in 8 bits. The sum of a group's products is an
// exact integer. It enters y times the row's scale and the output's scale for that group.

#include "dot.h"
#include "parallel.h"
#include "product.h"
#include "quantize.h"

// Weights are fetched into the cache so many inputs ahead: at the end of a block, those of the
// block that is next.
#define AHEAD 32
// Rows that are packed at once, at most.
#define AT_MOST 256

// The rows of x are packed in tiles of some rows: numbers [padded / STEP][rows][STEP], and
// [groups][rows] of their scales and of what their sums begin at.
typedef struct {
  Product product;
  Groups in;
  const unsigned char* weights;
  const float* scales;
  float* x_scales;
  int* starts;
  number* numbers;
} Quantized;

static void pack_group(const Quantized* w, const element* x, long tile, int row, long group) {
  int rows = rows_of(&w->product, tile);
  number* numbers = w->numbers + tile * TILE * w->in.padded + row * STEP;
  long begin = group * w->in.group, end = end_of(group, w->in.group, w->in.inputs);
  Scale scale = scale_of(x + begin, end - begin);
  i16 sums = {0};
  for (long i = begin; i < end; i += LANES) {
    i16 some = quantized(load_up_to(x + i, end - i), scale);
    sums += some;
    number narrow[LANES];
    for (int lane = 0; lane < LANES; lane++) narrow[lane] = (number)some[lane];
    for (int lane = 0; lane < LANES && i + lane < end; lane += STEP)
      __builtin_memcpy(numbers + (i + lane) * rows, narrow + lane, STEP * sizeof(number));
  }
  long place = tile * TILE * w->in.groups + group * rows + row;
  int sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
  w->x_scales[place] = scale.scale;
  w->starts[place] = -ZERO * sum;
}

static void pack_rows(const void* work, long tile) {
  const Quantized* w = work;
  const Product* product = &w->product;
  for (int row = 0; row < rows_of(product, tile); row++) {
    long slot = slot_of(product, tile * TILE + row);
    const element* x = product->x + slot / product->slots_per_x * product->inputs;
    for (long group = 0; group < w->in.groups; group++) pack_group(w, x, tile, row, group);
  }
}

// The integer sums of a group: of its inputs begin <= i < end. Behind the last input all weights
// are 0, and the numbers of x are 0 or not set.
INLINE void add_group(int rows, int blocks, const Quantized* w, const number* x, const int* starts,
                      const unsigned char* weights, long begin, long end, part* sums) {
  const int parts = blocks * PARTS;
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int p = 0; p < parts; p++) { sums[r * parts + p] = spread(starts[r]); }
  }
  for (long i = begin; i < end; i += STEP) {
    part some[GROUP * PARTS];
    long next = i + AHEAD < w->in.padded ? i + AHEAD : i + AHEAD + (blocks - 1) * w->in.padded;
    UNROLL for (int b = 0; b < blocks; b++) {
      const unsigned char* from = weights + (b * w->in.padded + i) * LANES;
      UNROLL for (int p = 0; p < PARTS; p++) {
        some[b * PARTS + p] = load_part(from + p * PART_BYTES);
      }
      __builtin_prefetch(from + (next - i) * LANES);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      part same = spread_numbers(x + i * rows + r * STEP);
      UNROLL for (int p = 0; p < parts; p++) {
        sums[r * parts + p] = add_part(sums[r * parts + p], same, some[p]);
      }
    }
  }
}

// The products of a tile with consecutive blocks.
INLINE void multiply_bytes(int rows, int blocks, const Quantized* w, long tile, long first,
                           Sums* totals) {
  const number* x = w->numbers + tile * TILE * w->in.padded;
  const unsigned char* weights = w->weights + first * w->in.padded * LANES;
  __builtin_memset(totals, 0, (unsigned long)blocks * sizeof *totals);
  for (long group = 0; group < w->in.groups; group++) {
    long place = tile * TILE * w->in.groups + group * rows;
    part sums[ACCUMULATORS * PARTS];
    add_group(rows, blocks, w, x, w->starts + place, weights, group * w->in.group,
              end_of(group, w->in.group, w->in.padded), sums);
    long next = group + 2 < w->in.groups ? group + 2 : group + 2 + (blocks - 1) * w->in.groups;
    UNROLL for (int b = 0; b < blocks; b++) {
      const float* scales_of_block = w->scales + (first + b) * w->in.groups * LANES;
      __builtin_prefetch(scales_of_block + next * LANES);
      v16 scales = load_floats(scales_of_block + group * LANES);
      UNROLL for (int r = 0; r < rows; r++) {
        v16 total = load_floats(totals[b][r]);
        total += floats_of(sums + (r * blocks + b) * PARTS) * (scales * w->x_scales[place + r]);
        store_floats(totals[b][r], total);
      }
    }
  }
}

// How many blocks go with a number of rows at once: divisors of GROUP.
#if TILE == 8
#define FOR_EACH_HEIGHT(CALL) \
  CALL(1, 6) CALL(2, 6) CALL(3, 6) CALL(4, 6) CALL(5, 3) CALL(6, 3) CALL(7, 3) CALL(8, 3)
#else
#define FOR_EACH_HEIGHT(CALL) CALL(1, 3) CALL(2, 2) CALL(3, 2) CALL(4, 1) CALL(5, 1) CALL(6, 1)
#endif

INLINE void multiply_some(int rows, int at_once, const Quantized* w, long tile, long first,
                          long count, Sums* totals) {
  long block = 0;
  for (; block + at_once <= count; block += at_once)
    multiply_bytes(rows, at_once, w, tile, first + block, totals + block);
  for (; block < count; block++) multiply_bytes(rows, 1, w, tile, first + block, totals + block);
}

// Some blocks of outputs for all rows; those of a group of blocks stay in the L2 cache.
static void quantized_task(const void* work, long task) {
  const Quantized* w = work;
  const Product* product = &w->product;
  long first = task * product->blocks_per_task, end = first + product->blocks_per_task;
  if (end > product->blocks) end = product->blocks;
  long step = product->gate ? 2 : 1;
  for (; first < end; first += GROUP) {
    long count = end - first < GROUP ? end - first : GROUP;
    for (long tile = 0; tile * TILE < product->rows; tile++) {
      Sums totals[GROUP];
      switch (rows_of(product, tile)) {
#define CALL(rows, at_once) \
  case rows: multiply_some(rows, at_once, w, tile, first, count, totals); break;
        FOR_EACH_HEIGHT(CALL)
#undef CALL
      }
      for (long block = 0; block < count; block += step)
        store_outputs(product, tile, (first + block) / step, totals + block);
    }
  }
}

// All rows of a product; `scratch` has room for 2 floats of each group, and one of each padded
// input, for each of the rows, or for AT_MOST of them.
static void multiply_rows(Quantized work, float* scratch, long rows, long threads) {
  Product* product = &work.product;
  for (long done = 0; done < rows; done += product->rows) {
    long count = rows - done < AT_MOST ? rows - done : AT_MOST;
    product->rows = count;
    work.x_scales = scratch;
    work.starts = (int*)(scratch + count * work.in.groups);
    work.numbers = (number*)(scratch + 2 * count * work.in.groups);
    divide_blocks(product, 1, count, threads);
    long packers = count * product->inputs < 1 << 16 ? 1 : threads;
    parallel_for((count + TILE - 1) / TILE, packers, pack_rows, &work);
    parallel_for(tasks_of(product), threads, quantized_task, &work);
    if (product->slots) {
      product->slots += count;
    } else {
      product->out += count * product->outputs;
      product->x += count * product->inputs;
    }
  }
}

void quantized_linear(element* out, const element* x, const unsigned char* weights,
                      const float* scales, const element* bias, float* scratch, long rows,
                      long inputs, long outputs, long group, long gate, long threads) {
  Quantized work = {.product = {.out = out,
                                .x = x,
                                .bias = bias,
                                .slots_per_x = 1,
                                .inputs = inputs,
                                .outputs = outputs,
                                .gate = (int)gate},
                    .in = groups_of(inputs, group),
                    .weights = weights,
                    .scales = scales};
  multiply_rows(work, scratch, rows, threads);
}

// Expert e multiplies the slots slots[offsets[e]] ... slots[offsets[e + 1] - 1]. Its weights begin
// at e * stride, and its scales `scales_begin` bytes behind them.
void grouped_quantized_linear(element* out, const element* x, const unsigned char* weights,
                              const long long* slots, const long long* offsets, float* scratch,
                              long experts, long stride, long scales_begin, long slots_per_x,
                              long inputs, long outputs, long group, long gate, long threads) {
  Quantized work = {.product = {.out = out,
                                .x = x,
                                .slots_per_x = slots_per_x,
                                .inputs = inputs,
                                .outputs = outputs,
                                .gate = (int)gate},
                    .in = groups_of(inputs, group)};
  for (long expert = 0; expert < experts; expert++) {
    work.weights = weights + expert * stride;
    work.scales = (const float*)(work.weights + scales_begin);
    work.product.slots = slots + offsets[expert];
    multiply_rows(work, scratch, offsets[expert + 1] - offsets[expert], threads);
  }
}
