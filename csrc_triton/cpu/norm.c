// RMSNorm of rows, optionally after adding a residual.

#include "parallel.h"
#include "vector.h"

typedef struct {
  element *out, *sum;
  const element *x, *residual, *weight;
  long rows, size, rows_per_task;
  float eps;
} Work;

static void normalise(const Work* w, const element* x, const element* residual, element* sum,
                      element* out) {
  long whole = w->size / LANES * LANES, rest = w->size - whole;
  v16 squares = {0};
  for (long d = 0; d < w->size; d += LANES) {
    int part = d == whole;
    v16 y = part ? load_first(x + d, rest) : load(x + d);
    if (residual) {
      y = rounded(y + (part ? load_first(residual + d, rest) : load(residual + d)));
      part ? store_first(sum + d, y, rest) : store(sum + d, y);
    }
    squares += y * y;
  }
  float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)w->size + w->eps);
  const element* from = residual ? sum : x;
  for (long d = 0; d < whole; d += LANES)
    store(out + d, rounded(load(from + d) * scale) * load(w->weight + d));
  if (rest)
    store_first(
        out + whole,
        rounded(load_first(from + whole, rest) * scale) * load_first(w->weight + whole, rest),
        rest);
}

static void norm_task(const void* work, long task) {
  const Work* w = work;
  long begin = task * w->rows_per_task, end = begin + w->rows_per_task;
  for (long row = begin; row < end && row < w->rows; row++) {
    long at = row * w->size;
    normalise(w, w->x + at, w->residual ? w->residual + at : 0, w->sum + at, w->out + at);
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
