// y = x Wᵀ + b, or with a gate f(x Gᵀ) * (x Uᵀ).

#include "parallel.h"
#include "product.h"

static void pack_task(const void* work, long tile) { pack_tile(work, tile); }

static void linear_task(const void* work, long task) { multiply_blocks(work, task); }

// `packed` has room for inputs numbers of each of the rows, or of TILES * TILE of them.
void linear(element* out, const element* x, const element* weights, const element* bias,
            float* packed, long rows, long inputs, long outputs, long gate, long threads) {
  for (long begin = 0; begin < rows; begin += TILES * TILE) {
    long count = rows - begin < TILES * TILE ? rows - begin : TILES * TILE;
    Product product = {
        .out = out + begin * outputs,
        .x = x + begin * inputs,
        .weights = weights,
        .bias = bias,
        .packed = packed,
        .rows = count,
        .slots_per_x = 1,
        .inputs = inputs,
        .outputs = outputs,
        .gate = (int)gate,
    };
    divide_blocks(&product, 1, count, threads);
    long packers = count * inputs < 1 << 16 ? 1 : threads;
    parallel_for((count + TILE - 1) / TILE, packers, pack_task, &product);
    parallel_for(tasks_of(&product), threads, linear_task, &product);
  }
}
