// The product of some rows with packed weights, which several kernels share.

#pragma once

#include "tile.h"

// Tiles of rows that share the weights of a task: the most rows of a product.
#define TILES 16
// A task takes whole groups of blocks: as many as are multiplied at once, and pairs of gates and
// outputs.
#define GROUP 6

typedef float Sums[TILE][LANES];

// Row r of the product is slot r, or slots[r]. A slot is a row of `out`; in x some consecutive
// slots may be one row. `packed` has room for the rows of x.
typedef struct {
  element* out;
  const element *x, *weights, *bias;
  const long long* slots;
  float* packed;
  long rows, slots_per_x, inputs, outputs, blocks, blocks_per_task;
  int gate;
} Product;

INLINE long slot_of(const Product* w, long row) { return w->slots ? w->slots[row] : row; }

INLINE int rows_of(const Product* w, long tile) {
  long rest = w->rows - tile * TILE;
  return rest < TILE ? (int)rest : TILE;
}

// Pack the rows of a tile, input for input.
void pack_tile(const Product* w, long tile);

// Multiply all rows with some blocks of outputs; the tiles are packed.
void multiply_blocks(const Product* w, long task);

// Store 16 outputs of a tile's rows: the sums of a block, or of a pair of blocks.
void store_outputs(const Product* w, long tile, long first, const Sums* sums);

// Choose blocks_per_task for a number of products with that many rows each.
void divide_blocks(Product* w, long products, long rows, long threads);

INLINE long tasks_of(const Product* w) {
  return (w->blocks + w->blocks_per_task - 1) / w->blocks_per_task;
}
