// Rotation of queries and keys, after their optional norm, and the store of keys and values.

#include "normalise.h"
#include "pages.h"
#include "parallel.h"

#define ROWS_PER_TASK 8

typedef struct {
  element *q_out, *keys, *values;
  const element *q, *k, *v;
  Weight q_norm, k_norm;
  const float* cos_sin;
  const long long *positions, *slots;
  long rows, q_stride, k_stride, v_stride, q_heads, kv_heads, head_dim;
  float eps;
} Work;

// Normalise a head if there is a weight, and write it rotated to `out`: (x1, x2) -> (x1 cos - x2
// sin, x2 cos + x1 sin).
static void rotate(const element* x, Weight norm, float eps, const float* cos_sin, long head_dim,
                   element* out) {
  long half = head_dim / 2;
  element normed[MOST_DIMS];
  if (norm.narrow || norm.wide) {
    normalise(x, norm, head_dim, eps, normed);
    x = normed;
  }
  for (long d = 0; d < half; d += LANES) {
    long left = half - d;
    v16 first = load_up_to(x + d, left), second = load_up_to(x + half + d, left);
    v16 cosine = load_floats_up_to(cos_sin + d, left);
    v16 sine = load_floats_up_to(cos_sin + half + d, left);
    store_up_to(out + d, first * cosine - second * sine, left);
    store_up_to(out + half + d, second * cosine + first * sine, left);
  }
}

static void store_row(const Work* w, long row, const float* cos_sin) {
  long page = w->slots[row] / PAGE, offset = w->slots[row] % PAGE;
  for (long head = 0; head < w->kv_heads; head++) {
    long place = (page * w->kv_heads + head) * PAGE * w->head_dim;
    element k[MOST_DIMS];
    rotate(w->k + row * w->k_stride + head * w->head_dim, w->k_norm, w->eps, cos_sin, w->head_dim,
           k);
    const element* v = w->v + row * w->v_stride + head * w->head_dim;
    element *keys = w->keys + place + offset, *values = w->values + place + offset * w->head_dim;
    for (long d = 0; d < w->head_dim; d++) keys[d * PAGE] = k[d];
    __builtin_memcpy(values, v, (unsigned long)w->head_dim * sizeof(element));
  }
}

static void rope_task(const void* work, long task) {
  const Work* w = work;
  long begin = task * ROWS_PER_TASK, end = begin + ROWS_PER_TASK;
  for (long row = begin; row < end && row < w->rows; row++) {
    const float* cos_sin = w->cos_sin + w->positions[row] * w->head_dim;
    for (long head = 0; head < w->q_heads; head++)
      rotate(w->q + row * w->q_stride + head * w->head_dim, w->q_norm, w->eps, cos_sin, w->head_dim,
             w->q_out + (row * w->q_heads + head) * w->head_dim);
    if (w->slots[row] >= 0) store_row(w, row, cos_sin);
  }
}

void rope_and_cache(element* q_out, element* keys, element* values, const element* q,
                    const element* k, const element* v, const void* q_norm, const void* k_norm,
                    const float* cos_sin, const long long* positions, const long long* slots,
                    long wide, long rows, long q_stride, long k_stride, long v_stride, long q_heads,
                    long kv_heads, long head_dim, float eps, long threads) {
  Work work = {
      .q_out = q_out,
      .keys = keys,
      .values = values,
      .q = q,
      .k = k,
      .v = v,
      .q_norm = weight_of(q_norm, wide),
      .k_norm = weight_of(k_norm, wide),
      .cos_sin = cos_sin,
      .positions = positions,
      .slots = slots,
      .rows = rows,
      .q_stride = q_stride,
      .k_stride = k_stride,
      .v_stride = v_stride,
      .q_heads = q_heads,
      .kv_heads = kv_heads,
      .head_dim = head_dim,
      .eps = eps,
  };
  parallel_for((rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, threads, rope_task, &work);
}
