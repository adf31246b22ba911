// The log of the softmax at one token per row.

#include "logits.h"

#define ROWS_PER_TASK 16

typedef struct {
  float* logprobs;
  const long long* token_ids;
  Summary summary;
} Work;

static float logprob(const Work* w, long row) {
  const Summary* s = &w->summary;
  float highest = highest_of(s, row);
  float mass = (float)merge_blocks(s, row, highest, 1.0f);
  float x = to_float(s->logits[row * s->row_stride + w->token_ids[row]]);
  return mass > 0.0f ? x - highest - logarithm_of(mass) : __builtin_nanf("");
}

static void logprob_task(const void* work, long task) {
  const Work* w = work;
  long begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK;
  for (long row = begin; row < end && row < w->summary.rows; row++)
    w->logprobs[row] = logprob(w, row);
}

// scratch: two numbers for each block of each row; `blocks` is a multiple of 16.
void token_logprobs(float* logprobs, float* scratch, const element* logits,
                    const long long* token_ids, long rows, long row_stride, long vocab, long blocks,
                    long threads) {
  Summary summary = {logits,     0,     scratch, scratch + rows * blocks, rows,
                     row_stride, vocab, blocks,  1 + PIECE / vocab};
  Work work = {logprobs, token_ids, summary};
  summarise(&summary, threads);
  parallel_for((rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, threads, logprob_task, &work);
}
