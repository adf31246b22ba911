// y = x Wᵀ + b, or with a gate f(x Gᵀ) * (x Uᵀ), for some rows. A product is one chain of
// additions, whatever the other rows are.
//
// Weights are packed as [blocks][inputs][16]: a vector holds the weights of 16 outputs for one
// input. With a gate every other block is G's, and the one behind it is U's for the same outputs.
// The rows of x are packed in tiles, input for input, so that a tile is read in the order of
// memory.

#include "product.h"

#include "gate.h"

// Inputs that are multiplied at once: those of a tile stay in the L1 cache, and the weights of a
// task in the L2 cache.
#define SLICE 256
// Most blocks of outputs of a task.
#define BLOCKS 12
// Multiplications of a task, at least: enough to pay for handing it to a thread.
#define ENOUGH (1L << 18)

void pack_tile(const Product* w, long tile) {
  float* packed = w->packed + tile * TILE * w->inputs;
  int rows = rows_of(w, tile);
  for (int r = 0; r < rows; r++) {
    const element* x = w->x + slot_of(w, tile * TILE + r) / w->slots_per_x * w->inputs;
    for (long i = 0; i < w->inputs; i++) packed[i * rows + r] = to_float(x[i]);
  }
}

// Add the products of the inputs begin <= i < end to the sums of consecutive blocks.
INLINE void multiply(int rows, int blocks, const Product* w, const float* x, const element* weights,
                     long begin, long end, Sums* totals) {
  v16 sums[ACCUMULATORS];
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int b = 0; b < blocks; b++) {
      sums[r * blocks + b] = begin ? load_floats(totals[b][r]) : (v16){0};
    }
  }
  x += begin * rows;
  for (long i = begin; i < end; i++, x += rows) {
    v16 some[MOST_AT_ONCE];
    UNROLL for (int b = 0; b < blocks; b++) {
      some[b] = load(weights + (b * w->inputs + i) * LANES);
    }
    UNROLL for (int r = 0; r < rows; r++) {
      UNROLL for (int b = 0; b < blocks; b++) { sums[r * blocks + b] += x[r] * some[b]; }
    }
  }
  UNROLL for (int r = 0; r < rows; r++) {
    UNROLL for (int b = 0; b < blocks; b++) { store_floats(totals[b][r], sums[r * blocks + b]); }
  }
}

INLINE void multiply_tile(int rows, int at_once, const Product* w, const float* x,
                          const element* weights, long count, long begin, long end, Sums* totals) {
  long block = 0, size = w->inputs * LANES;
  for (; block + at_once <= count; block += at_once)
    multiply(rows, at_once, w, x, weights + block * size, begin, end, totals + block);
  for (; block < count; block++)
    multiply(rows, 1, w, x, weights + block * size, begin, end, totals + block);
}

void store_outputs(const Product* w, long tile, long first, const Sums* totals) {
  long column = first * LANES, width = w->outputs - column;
  v16 bias = {0};
  if (w->bias) bias = load_up_to(w->bias + column, width);
  for (int r = 0; r < rows_of(w, tile); r++) {
    element* out = w->out + slot_of(w, tile * TILE + r) * w->outputs + column;
    v16 y = load_floats(totals[0][r]);
    y = w->gate ? gated(w->gate, rounded(y), rounded(load_floats(totals[1][r]))) : y + bias;
    store_up_to(out, y, width);
  }
}

void multiply_blocks(const Product* w, long task) {
  long first = task * w->blocks_per_task, count = w->blocks - first;
  if (count > w->blocks_per_task) count = w->blocks_per_task;
  const element* weights = w->weights + first * w->inputs * LANES;
  Sums totals[TILES][BLOCKS];
  // With one tile weights are read once, so they are read in the order of memory.
  long slice = w->rows > TILE ? SLICE : w->inputs;
  for (long begin = 0; begin < w->inputs; begin += slice) {
    long end = begin + slice < w->inputs ? begin + slice : w->inputs;
    for (long tile = 0; tile * TILE < w->rows; tile++) {
      const float* x = w->packed + tile * TILE * w->inputs;
      switch (rows_of(w, tile)) {
#define CALL(rows, at_once) \
  case rows: multiply_tile(rows, at_once, w, x, weights, count, begin, end, totals[tile]); break;
        FOR_EACH_WIDTH(CALL)
#undef CALL
      }
    }
  }
  long step = w->gate ? 2 : 1;
  for (long tile = 0; tile * TILE < w->rows; tile++)
    for (long block = 0; block < count; block += step)
      store_outputs(w, tile, (first + block) / step, totals[tile] + block);
}

void divide_blocks(Product* w, long products, long rows, long threads) {
  w->blocks = (w->outputs + LANES - 1) / LANES * (w->gate ? 2 : 1);
  long fair = w->blocks * products / (threads * 4);
  long enough = ENOUGH / (rows * w->inputs * LANES + 1) + 1;
  long blocks = ((fair > enough ? fair : enough) + GROUP - 1) / GROUP * GROUP;
  w->blocks_per_task = blocks < BLOCKS ? blocks : BLOCKS;
}
