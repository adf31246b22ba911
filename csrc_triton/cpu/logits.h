// The walk over rows of logits that sampling and log-probabilities share.
//
// A weight is e^((logit - highest) / temperature), at most 1. A row is cut into blocks of a fixed
// size, so that its sums depend on neither the other rows nor the number of threads. One pass over
// memory leaves for each block its highest logit and its mass, the sum of its weights relative to
// that logit.

#pragma once

#include "parallel.h"
#include "vector.h"

#define BLOCK 512
#define PIECE (LANES * BLOCK)  // the tokens whose blocks fill one vector

typedef struct {
  const element* logits;
  const float* temperatures;  // null: 1 for every row
  float *highest, *masses;  // [rows, blocks], up to whole vectors; blocks behind the end are empty
  long rows, row_stride, vocab, blocks, pieces_per_task;
} Summary;

INLINE float inverse_temperature(float temperature) {
  return 1.0f / (temperature > 1e-6f ? temperature : 1e-6f);
}

// -inf weighs nothing, even if the highest is -inf, too. A NaN stays one.
INLINE v16 weigh(v16 x, float highest, float inverse) {
  return choose(x == -INFINITE, all_lanes(0.0f), exponential((x - highest) * inverse));
}

// The logits of up to 16 tokens of which n are left in the row; -inf in the other lanes.
INLINE v16 logits_at(const element* x, long n) {
  if (n >= LANES) return load(x);
  return choose(lane_numbers() < (int)n, load_first(x, n), all_lanes(-INFINITE));
}

// The number of tokens of a block; 0 or less behind the vocabulary's end.
INLINE long block_size(long vocab, long block) {
  long left = vocab - block * BLOCK;
  return left < BLOCK ? left : BLOCK;
}

// The highest logit of every 16th token from each of the first 16 on. A NaN is passed over.
INLINE v16 highest_lanes(const element* x, long n) {
  v16 tops = all_lanes(-INFINITE);
  for (long t = 0; t < n; t += LANES) tops = greater(tops, logits_at(x + t, n - t));
  return tops;
}

static void summarise_block(const element* x, long n, float temperature, float* highest,
                            float* mass) {
  *highest = -INFINITE, *mass = 0.0f;
  if (n <= 0) return;
  float top = greatest_lane(highest_lanes(x, n)), inverse = inverse_temperature(temperature);
  v16 sums = {0};
  // At temperature 0 nobody reads the mass.
  for (long t = 0; t < n && temperature != 0; t += LANES)
    sums += weigh(logits_at(x + t, n - t), top, inverse);
  *highest = top;
  *mass = sum_lanes(sums);
}

static void summarise_task(const void* work, long task) {
  const Summary* s = work;
  long pieces = s->blocks / LANES, begin = task * s->pieces_per_task,
       end = begin + s->pieces_per_task;
  for (long piece = begin; piece < end && piece < s->rows * pieces; piece++) {
    long row = piece / pieces, first = piece % pieces * LANES;
    const element* x = s->logits + row * s->row_stride;
    float temperature = s->temperatures ? s->temperatures[row] : 1.0f;
    for (long block = first; block < first + LANES; block++) {
      long at = row * s->blocks + block;
      summarise_block(x + block * BLOCK, block_size(s->vocab, block), temperature, s->highest + at,
                      s->masses + at);
    }
  }
}

static void summarise(const Summary* s, long threads) {
  long pieces = s->rows * (s->blocks / LANES);
  parallel_for((pieces + s->pieces_per_task - 1) / s->pieces_per_task, threads, summarise_task, s);
}

INLINE float highest_of(const Summary* s, long row) {
  v16 tops = all_lanes(-INFINITE);
  for (long block = 0; block < s->blocks; block += LANES)
    tops = greater(tops, load_floats(s->highest + row * s->blocks + block));
  return greatest_lane(tops);
}

// Make the masses of a row's blocks relative to the row's highest logit, and the highest logits
// weights; return the mass of the row.
static double merge_blocks(const Summary* s, long row, float highest, float inverse) {
  float *tops = s->highest + row * s->blocks, *masses = s->masses + row * s->blocks;
  double total = 0.0;
  for (long block = 0; block < s->blocks; block += LANES) {
    v16 weight = weigh(load_floats(tops + block), highest, inverse);
    store_floats(tops + block, weight);
    store_floats(masses + block, load_floats(masses + block) * weight);
    for (long b = block; b < block + LANES; b++) total += (double)masses[b];
  }
  return total;
}
