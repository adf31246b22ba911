// RMSNorm of rows, optionally after adding a residual.

#include "normalise.h"
#include "parallel.h"

typedef struct {
  element *out, *sum;
  const element *x, *residual, *weight;
  long rows, size, rows_per_task;
  float eps;
} Work;

static void add(const element* x, const element* y, long size, element* sum) {
  for (long d = 0; d < size; d += LANES) {
    long left = size - d;
    store_up_to(sum + d, load_up_to(x + d, left) + load_up_to(y + d, left), left);
  }
}

static void norm_task(const void* work, long task) {
  const Work* w = work;
  long begin = task * w->rows_per_task, end = begin + w->rows_per_task;
  for (long row = begin; row < end && row < w->rows; row++) {
    long at = row * w->size;
    if (w->residual) add(w->x + at, w->residual + at, w->size, w->sum + at);
    normalise((w->residual ? w->sum : w->x) + at, w->weight, w->size, w->eps, w->out + at);
  }
}

// x, out [rows, size]; with a residual [rows, size] x + residual goes to `sum` and is normalised.
void rms_norm(element* out, element* sum, const element* x, const element* residual,
              const element* weight, long rows, long size, float eps, long threads) {
  long rows_per_task = 1 + 8192 / size;
  Work work = {
      .out = out,
      .sum = sum,
      .x = x,
      .residual = residual,
      .weight = weight,
      .rows = rows,
      .size = size,
      .rows_per_task = rows_per_task,
      .eps = eps,
  };
  parallel_for((rows + rows_per_task - 1) / rows_per_task, threads, norm_task, &work);
}
