// A mixture of experts: products of rows with the weights of their experts, one call for all of
// them, and the sum of each token's rows.

#include "parallel.h"
#include "product.h"

// Rows that are packed at once, and so the most runs.
#define PASS 512

// Rows of one expert that share its weights: their number, and the first one of the pass.
typedef struct {
  long expert, begin, rows;
} Run;

typedef struct {
  Product all;
  const Run* runs;
} Pass;

static Product product_of(const Pass* pass, long index) {
  const Run* run = pass->runs + index;
  Product one = pass->all;
  one.rows = run->rows;
  one.slots += run->begin;
  one.packed += run->begin * one.inputs;
  one.weights += run->expert * one.blocks * one.inputs * LANES;
  return one;
}

static void pack_run(const void* work, long index) {
  Product product = product_of(work, index);
  for (long tile = 0; tile * TILE < product.rows; tile++) pack_tile(&product, tile);
}

// Neighbouring tasks are of one run: they read the same rows.
static void run_task(const void* work, long task) {
  const Pass* pass = work;
  long tasks = tasks_of(&pass->all);
  Product product = product_of(pass, task / tasks);
  multiply_blocks(&product, task % tasks);
}

// The runs of the rows begin <= row < end; returns how many.
static long runs_of(const long long* offsets, long begin, long end, Run* runs) {
  long count = 0, expert = 0;
  for (long row = begin; row < end; row += runs[count++].rows) {
    while (offsets[expert + 1] <= row) expert++;
    long rows = (offsets[expert + 1] < end ? offsets[expert + 1] : end) - row;
    runs[count] = (Run){expert, row - begin, rows < TILES * TILE ? rows : TILES * TILE};
  }
  return count;
}

// Expert e multiplies the slots slots[offsets[e]] ... slots[offsets[e + 1] - 1]. `packed` has room
// for inputs numbers of each of them, or of PASS.
void grouped_linear(element* out, const element* x, const element* weights, const long long* slots,
                    const long long* offsets, float* packed, long experts, long slots_per_x,
                    long inputs, long outputs, long gate, long threads) {
  Run runs[PASS];
  long total = offsets[experts];
  for (long begin = 0; begin < total; begin += PASS) {
    long end = begin + PASS < total ? begin + PASS : total;
    long count = runs_of(offsets, begin, end, runs);
    Pass pass = {
        .all =
            {
                .out = out,
                .x = x,
                .weights = weights,
                .slots = slots + begin,
                .packed = packed,
                .slots_per_x = slots_per_x,
                .inputs = inputs,
                .outputs = outputs,
                .gate = (int)gate,
            },
        .runs = runs,
    };
    divide_blocks(&pass.all, count, (end - begin) / count, threads);
    parallel_for(count, (end - begin) * inputs < 1 << 16 ? 1 : threads, pack_run, &pass);
    parallel_for(count * tasks_of(&pass.all), threads, run_task, &pass);
  }
}

typedef struct {
  element* out;
  const element *rows, *weights;
  long tokens, top_k, size;
} Sum;

static void sum_task(const void* work, long token) {
  const Sum* w = work;
  const element* rows = w->rows + token * w->top_k * w->size;
  for (long d = 0; d < w->size; d += LANES) {
    long left = w->size - d;
    v16 total = {0};
    for (long k = 0; k < w->top_k; k++)
      total +=
          to_float(w->weights[token * w->top_k + k]) * load_up_to(rows + k * w->size + d, left);
    store_up_to(w->out + token * w->size + d, total, left);
  }
}

// out [tokens, size]: the sum of each token's top_k rows, times their weights [tokens, top_k].
void weighted_sum(element* out, const element* rows, const element* weights, long tokens,
                  long top_k, long size, long threads) {
  Sum work = {
      .out = out,
      .rows = rows,
      .weights = weights,
      .tokens = tokens,
      .top_k = top_k,
      .size = size,
  };
  parallel_for(tokens, threads, sum_task, &work);
}
