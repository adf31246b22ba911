// f(gate) * up.

#include "gate.h"
#include "parallel.h"

typedef struct {
  element* out;
  const element* gate_up;
  long rows, size, rows_per_task;
} Work;

INLINE void activate(int kind, const Work* w, long task) {
  long begin = task * w->rows_per_task, end = begin + w->rows_per_task;
  for (long row = begin; row < end && row < w->rows; row++) {
    const element *gate = w->gate_up + row * 2 * w->size, *up = gate + w->size;
    element* out = w->out + row * w->size;
    for (long d = 0; d < w->size; d += LANES) {
      long left = w->size - d;
      store_up_to(out + d, gated(kind, load_up_to(gate + d, left), load_up_to(up + d, left)), left);
    }
  }
}

static void silu_task(const void* work, long task) { activate(SILU, work, task); }

static void gelu_tanh_task(const void* work, long task) { activate(GELU_TANH, work, task); }

// gate_up [rows, 2 size], the gates first -> out [rows, size].
void gated_activation(element* out, const element* gate_up, long rows, long size, long gate,
                      long threads) {
  long rows_per_task = 1 + 4096 / size;
  Work work = {
      .out = out,
      .gate_up = gate_up,
      .rows = rows,
      .size = size,
      .rows_per_task = rows_per_task,
  };
  Task activation = gate == SILU ? silu_task : gelu_tanh_task;
  parallel_for((rows + rows_per_task - 1) / rows_per_task, threads, activation, &work);
}
