// RMSNorm of rows, optionally after adding a residual.

#include "normalise.h"
#include "parallel.h"

typedef struct {
  element *out, *sum;
  const element *x, *residual;
  Weight weight;
  long rows, x_stride, size, rows_per_task;
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
    const element* x = w->x + row * w->x_stride;
    if (w->residual) {
      add(x, w->residual + at, w->size, w->sum + at);
      x = w->sum + at;
    }
    normalise(x, w->weight, w->size, w->eps, w->out + at);
  }
}

// x, out [rows, size], the rows of x x_stride apart; with a residual [rows, size] x + residual goes
// to `sum` and is normalised.
void rms_norm(element* out, element* sum, const element* x, const element* residual,
              const void* weight, long wide, long rows, long x_stride, long size, float eps,
              long threads) {
  long rows_per_task = 1 + 8192 / size;
  Work work = {
      .out = out,
      .sum = sum,
      .x = x,
      .residual = residual,
      .weight = weight_of(weight, wide),
      .rows = rows,
      .x_stride = x_stride,
      .size = size,
      .rows_per_task = rows_per_task,
      .eps = eps,
  };
  parallel_for((rows + rows_per_task - 1) / rows_per_task, threads, norm_task, &work);
}
