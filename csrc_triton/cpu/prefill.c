// Prefill attention: rows of several segments over their contexts' spans and, causally, themselves.

#include "attend.h"
#include "parallel.h"

// Tiles that walk the spans together, so that a run of keys and values stays in the cache for them.
#define TILES 4

typedef struct {
  element* out;
  const element *queries, *keys, *values;
  const int *row_offsets, *own, *span_offsets, *spans, *page_table;
  const float* sinks;
  long row_stride, head_stride, kv_heads, group, head_dim, window;
  float scale;
} Work;

enum { PAGE_BEGIN, START, STOP, POSITION, SPAN_COLUMNS };
enum { COMPUTED = 1, OWN_POSITION, OWN_COLUMNS };

static long tasks_of(const Work* w, long segment) {
  long lanes = (w->row_offsets[segment + 1] - w->row_offsets[segment]) * w->group;
  return (lanes + TILES * TILE - 1) / (TILES * TILE);
}

// Where the lanes of a task begin in their segment, which begins at row `first_row` of the queries.
typedef struct {
  long first_row, first_lane, kv_head;
  int lanes;
} Lanes;

static long row_of(const Work* w, const Lanes* lanes, int lane) {
  return (lanes->first_lane + lane) / w->group;
}

static long head_of(const Work* w, const Lanes* lanes, int lane) {
  return lanes->kv_head * w->group + (lanes->first_lane + lane) % w->group;
}

static void start_tiles(const Work* w, const Lanes* lanes, Tile* tiles) {
  for (int lane = 0; lane < lanes->lanes; lane++) {
    long head = head_of(w, lanes, lane), row = lanes->first_row + row_of(w, lanes, lane);
    start_lane(&tiles[lane / TILE], lane % TILE,
               w->queries + row * w->row_stride + head * w->head_stride, w->scale,
               w->sinks ? w->sinks + head : 0, w->head_dim);
  }
}

// Walk the tokens begin <= t < end of a page list; with `computed` >= 0 they are the segment's own,
// and row i sees those up to computed + i.
static void walk(const Work* w, const Lanes* lanes, Tile* tiles, const Cache* cache, long begin,
                 long end, long computed, long row_position, long list_position) {
  long low[TILES * TILE], high[TILES * TILE];
  for (int lane = 0; lane < lanes->lanes; lane++) {
    long row = row_of(w, lanes, lane);
    low[lane] = first_in_window(w->window, row_position + row, list_position);
    high[lane] = computed < 0 ? end : computed + row + 1;
  }
  for (long run = begin; run < end; run += RUN) {
    long stop = run + RUN < end ? run + RUN : end;
    for (int first = 0; first < lanes->lanes; first += TILE) {
      int count = lanes->lanes - first < TILE ? lanes->lanes - first : TILE;
      attend(&tiles[first / TILE], count, cache, run, stop, low + first, high + first);
    }
  }
}

static void store_tiles(const Work* w, const Lanes* lanes, const Tile* tiles) {
  for (int lane = 0; lane < lanes->lanes; lane++) {
    long row = lanes->first_row + row_of(w, lanes, lane);
    element* out = w->out + (row * w->kv_heads * w->group + head_of(w, lanes, lane)) * w->head_dim;
    for (long d = 0; d < w->head_dim; d += LANES) {
      v16 x = attended(&tiles[lane / TILE], lane % TILE, d);
      store_up_to(out + d, x, w->head_dim - d);
    }
  }
}

// One kv head of some rows of one segment. Later rows see more tokens, so they are taken first.
static void prefill_task(const void* work, long task) {
  const Work* w = work;
  long segment = 0, page = PAGE * w->head_dim, index = task / w->kv_heads;
  while (index >= tasks_of(w, segment)) index -= tasks_of(w, segment++);
  long first_row = w->row_offsets[segment], rows = w->row_offsets[segment + 1] - first_row;
  Lanes lanes = {first_row, (tasks_of(w, segment) - 1 - index) * TILES * TILE, task % w->kv_heads,
                 0};
  long count = rows * w->group - lanes.first_lane;
  lanes.lanes = count < TILES * TILE ? (int)count : TILES * TILE;

  Tile tiles[TILES];
  start_tiles(w, &lanes, tiles);
  const int* own = w->own + segment * OWN_COLUMNS;
  long computed = own[COMPUTED], row_position = own[OWN_POSITION] + computed;
  Cache cache = {w->keys + lanes.kv_head * page, w->values + lanes.kv_head * page, w->page_table,
                 w->kv_heads * page, w->head_dim};
  for (long i = w->span_offsets[segment]; i < w->span_offsets[segment + 1]; i++) {
    const int* span = w->spans + i * SPAN_COLUMNS;
    cache.page_table = w->page_table + span[PAGE_BEGIN];
    walk(w, &lanes, tiles, &cache, span[START], span[STOP], -1, row_position, span[POSITION]);
  }
  cache.page_table = w->page_table + own[PAGE_BEGIN];
  long end = computed + row_of(w, &lanes, lanes.lanes - 1) + 1;
  walk(w, &lanes, tiles, &cache, 0, end, computed, row_position, own[OWN_POSITION]);
  store_tiles(w, &lanes, tiles);
}

void prefill(element* out, const element* queries, const element* keys, const element* values,
             const int* row_offsets, const int* own, const int* span_offsets, const int* spans,
             const int* page_table, const float* sinks, long segments, long row_stride,
             long head_stride, long kv_heads, long group, long head_dim, long window, float scale,
             long threads) {
  Work work = {
      .out = out,
      .queries = queries,
      .keys = keys,
      .values = values,
      .row_offsets = row_offsets,
      .own = own,
      .span_offsets = span_offsets,
      .spans = spans,
      .page_table = page_table,
      .sinks = sinks,
      .row_stride = row_stride,
      .head_stride = head_stride,
      .kv_heads = kv_heads,
      .group = group,
      .head_dim = head_dim,
      .window = window,
      .scale = scale,
  };
  long tasks = 0;
  for (long segment = 0; segment < segments; segment++) tasks += tasks_of(&work, segment);
  parallel_for(tasks * kv_heads, threads, prefill_task, &work);
}
