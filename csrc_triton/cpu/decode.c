// Decode attention over a work list, and the merge of each row's partial results.

#include "attend.h"
#include "parallel.h"

typedef struct {
  float *out, *lse;
  const element *queries, *keys, *values;
  const int *items, *row_ids, *page_table;
  const long long* positions;
  long row_stride, head_stride, kv_heads, group, head_dim, window;
  float scale;
} Partials;

enum { ENTRY_BEGIN, ENTRY_END, PAGE_BEGIN, KV_BEGIN, KV_END, POSITION, COLUMNS };

// One kv head of one item.
static void partials_task(const void* work, long task) {
  const Partials* w = work;
  const int* item = w->items + task / w->kv_heads * COLUMNS;
  long kv_head = task % w->kv_heads, page = PAGE * w->head_dim;
  Cache cache = {w->keys + kv_head * page, w->values + kv_head * page,
                 w->page_table + item[PAGE_BEGIN], w->kv_heads * page, w->head_dim};
  long lanes = (item[ENTRY_END] - item[ENTRY_BEGIN]) * w->group;
  for (long first = 0; first < lanes; first += TILE) {
    Tile tile;
    long low[TILE], high[TILE], places[TILE];
    int count = lanes - first < TILE ? (int)(lanes - first) : TILE;
    for (int lane = 0; lane < count; lane++) {
      long entry = item[ENTRY_BEGIN] + (first + lane) / w->group, row = w->row_ids[entry];
      long head = kv_head * w->group + (first + lane) % w->group;
      places[lane] = entry * w->kv_heads * w->group + head;
      start_lane(&tile, lane, w->queries + row * w->row_stride + head * w->head_stride, w->scale, 0,
                 w->head_dim);
      low[lane] = w->window ? first_in_window(w->window, w->positions[row], item[POSITION]) : 0;
      high[lane] = item[KV_END];
    }
    attend(&tile, count, &cache, item[KV_BEGIN], item[KV_END], low, high);
    for (int lane = 0; lane < count; lane++) {
      float *out = w->out + places[lane] * w->head_dim, total = tile.total[lane];
      for (long d = 0; d < w->head_dim; d += LANES)
        store_floats_up_to(out + d, attended(&tile, lane, d), w->head_dim - d);
      w->lse[places[lane]] = total > 0.0f    ? tile.top[lane] + logarithm_of(total)
                             : total == 0.0f ? -INFINITE
                                             : total;
    }
  }
}

void decode_partials(float* out, float* lse, const element* queries, const element* keys,
                     const element* values, const int* items, const int* row_ids,
                     const int* page_table, const long long* positions, long num_items,
                     long row_stride, long head_stride, long kv_heads, long group, long head_dim,
                     long window, float scale, long threads) {
  Partials work = {
      .out = out,
      .lse = lse,
      .queries = queries,
      .keys = keys,
      .values = values,
      .items = items,
      .row_ids = row_ids,
      .page_table = page_table,
      .positions = positions,
      .row_stride = row_stride,
      .head_stride = head_stride,
      .kv_heads = kv_heads,
      .group = group,
      .head_dim = head_dim,
      .window = window,
      .scale = scale,
  };
  parallel_for(num_items * kv_heads, threads, partials_task, &work);
}

typedef struct {
  element* out;
  const float *partial_out, *partial_lse, *sinks;
  const int *ranges, *ids;
  long heads, head_dim;
} Merge;

// All heads of one row: out = sum of e^lse out_i / (sum of e^lse_i + e^sink).
static void merge_task(const void* work, long row) {
  const Merge* w = work;
  long begin = w->ranges[2 * row], end = w->ranges[2 * row + 1];
  for (long head = 0; head < w->heads; head++) {
    float top = w->sinks ? w->sinks[head] : -INFINITE, total = 0.0f;
    for (long i = begin; i < end; i++) {
      float lse = w->partial_lse[w->ids[i] * w->heads + head];
      if (lse > top || lse != lse) top = lse;
    }
    float base = top == -INFINITE ? 0.0f : top;
    v16 sums[MOST_DIMS / LANES] = {0};
    if (w->sinks) total = exponential_of(w->sinks[head] - base);
    for (long i = begin; i < end; i++) {
      long place = w->ids[i] * w->heads + head;
      float weight = exponential_of(w->partial_lse[place] - base);
      if (weight == 0.0f) continue;  // an empty partial
      total += weight;
      const float* out = w->partial_out + place * w->head_dim;
      for (long d = 0; d < w->head_dim; d += LANES)
        sums[d / LANES] += weight * load_floats_up_to(out + d, w->head_dim - d);
    }
    if (total == 0.0f) total = 1.0f;
    element* to = w->out + (row * w->heads + head) * w->head_dim;
    for (long d = 0; d < w->head_dim; d += LANES)
      store_up_to(to + d, sums[d / LANES] / total, w->head_dim - d);
  }
}

void merge_partials(element* out, const float* partial_out, const float* partial_lse,
                    const float* sinks, const int* ranges, const int* ids, long rows, long heads,
                    long head_dim, long threads) {
  Merge work = {
      .out = out,
      .partial_out = partial_out,
      .partial_lse = partial_lse,
      .sinks = sinks,
      .ranges = ranges,
      .ids = ids,
      .heads = heads,
      .head_dim = head_dim,
  };
  parallel_for(rows, threads, merge_task, &work);
}
