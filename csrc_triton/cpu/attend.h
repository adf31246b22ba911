// What decode and prefill attention share: a tile of lanes attends to a run of tokens.
//
// A lane is one query head of one row. All lanes of a tile read the same kv head, so each vector of
// keys or values is loaded once for all of them. Every number of a lane is computed by the same
// operations in the same order, however many lanes share its tile: its bits do not depend on its
// company.

#pragma once

#include "pages.h"
#include "tile.h"

// Tokens that a softmax sees at once; their scores take one page more if they begin inside of one.
#define RUN 256
#define SCORES (RUN + PAGE)
// Padding keeps the rows of a tile out of each other's cache sets.
#define DIMS (MOST_DIMS + PAGE)

typedef struct {
  const element *keys, *values;  // of one kv head, in page 0
  const int* page_table;         // of one segment
  long page_stride;              // elements from one page to the next
  long head_dim;
} Cache;

// A softmax that has seen some tokens: per lane the greatest score, the denominator, and the
// weighted sum of values. The queries are scaled already.
typedef struct {
  float queries[TILE][DIMS];
  float sums[TILE][DIMS];
  float top[TILE];
  float total[TILE];
} Tile;

// A lane that has seen nothing, or only a sink: a logit without a value.
INLINE void start_lane(Tile* tile, int lane, const element* query, float scale, const float* sink,
                       long head_dim) {
  for (long d = 0; d < head_dim; d++) tile->queries[lane][d] = to_float(query[d]) * scale;
  for (long d = 0; d < head_dim; d += LANES) store_floats(&tile->sums[lane][d], (v16){0});
  tile->top[lane] = sink ? *sink : -INFINITE;
  tile->total[lane] = sink ? 1.0f : 0.0f;
}

// scores[lane][t] of `lanes` lanes for the tokens of `pages` pages: query · key.
INLINE void score_pages(int lanes, int pages, const float (*queries)[DIMS], const Cache* cache,
                        const int* page_ids, float (*scores)[SCORES]) {
  const element* keys[MOST_AT_ONCE];
  v16 sums[ACCUMULATORS];
  UNROLL for (int page = 0; page < pages; page++) {
    keys[page] = cache->keys + page_ids[page] * cache->page_stride;
  }
  UNROLL for (int i = 0; i < lanes * pages; i++) { sums[i] = (v16){0}; }
  for (long d = 0; d < cache->head_dim; d++) {
    UNROLL for (int page = 0; page < pages; page++) {
      v16 key = load(keys[page] + d * PAGE);
      UNROLL for (int lane = 0; lane < lanes; lane++) {
        sums[lane * pages + page] += queries[lane][d] * key;
      }
    }
  }
  UNROLL for (int lane = 0; lane < lanes; lane++) {
    UNROLL for (int page = 0; page < pages; page++) {
      store_floats(&scores[lane][page * PAGE], sums[lane * pages + page]);
    }
  }
}

// Few lanes take several pages at a time: a chain of additions waits for itself.
INLINE void score_lanes(int lanes, int at_once, const float (*queries)[DIMS], const Cache* cache,
                        const int* page_ids, long pages, float (*scores)[SCORES]) {
  long page = 0;
  for (; page + at_once <= pages; page += at_once)
    score_pages(lanes, at_once, queries, cache, page_ids + page,
                (float (*)[SCORES]) & scores[0][page * PAGE]);
  for (; page < pages; page++)
    score_pages(lanes, 1, queries, cache, page_ids + page,
                (float (*)[SCORES]) & scores[0][page * PAGE]);
}

// sums[lane][0 ... 16 vectors] += weights[lane][t] * values[t] over the tokens begin <= t < end.
// The weights, and the tokens, count from the first of the pages. `rest`, if not 0, is the number
// of dimensions of the only vector.
INLINE void weigh_vectors(int lanes, int vectors, long rest, const float (*weights)[SCORES],
                          const Cache* cache, const int* page_ids, long begin, long end,
                          const element* values, float (*totals)[DIMS]) {
  v16 sums[ACCUMULATORS];
  UNROLL for (int lane = 0; lane < lanes; lane++) {
    UNROLL for (int i = 0; i < vectors; i++) {
      sums[lane * vectors + i] = load_floats(&totals[lane][i * LANES]);
    }
  }
  for (long t = begin; t < end;) {
    long page = t / PAGE, stop = (page + 1) * PAGE < end ? (page + 1) * PAGE : end;
    const element* value =
        values + page_ids[page] * cache->page_stride + t % PAGE * cache->head_dim;
    for (; t < stop; t++, value += cache->head_dim) {
      UNROLL for (int i = 0; i < vectors; i++) {
        v16 some = rest ? load_first(value, rest) : load(value + i * LANES);
        UNROLL for (int lane = 0; lane < lanes; lane++) {
          sums[lane * vectors + i] += weights[lane][t] * some;
        }
      }
    }
  }
  UNROLL for (int lane = 0; lane < lanes; lane++) {
    UNROLL for (int i = 0; i < vectors; i++) {
      store_floats(&totals[lane][i * LANES], sums[lane * vectors + i]);
    }
  }
}

INLINE void weigh_lanes(int lanes, int at_once, const float (*weights)[SCORES], const Cache* cache,
                        const int* page_ids, long begin, long end, float (*totals)[DIMS]) {
  long d = 0;
  for (; d + at_once * LANES <= cache->head_dim; d += at_once * LANES)
    weigh_vectors(lanes, at_once, 0, weights, cache, page_ids, begin, end, cache->values + d,
                  (float (*)[DIMS]) & totals[0][d]);
  for (; d + LANES <= cache->head_dim; d += LANES)
    weigh_vectors(lanes, 1, 0, weights, cache, page_ids, begin, end, cache->values + d,
                  (float (*)[DIMS]) & totals[0][d]);
  if (d < cache->head_dim)
    weigh_vectors(lanes, 1, cache->head_dim - d, weights, cache, page_ids, begin, end,
                  cache->values + d, (float (*)[DIMS]) & totals[0][d]);
}

static void score(int lanes, const float (*queries)[DIMS], const Cache* cache, const int* page_ids,
                  long pages, float (*scores)[SCORES]) {
  switch (lanes) {
#define CALL(lanes, at_once) \
  case lanes: score_lanes(lanes, at_once, queries, cache, page_ids, pages, scores); break;
    FOR_EACH_WIDTH(CALL)
#undef CALL
  }
}

static void weigh(int lanes, const float (*weights)[SCORES], const Cache* cache,
                  const int* page_ids, long begin, long end, float (*totals)[DIMS]) {
  if (begin >= end) return;
  switch (lanes) {
#define CALL(lanes, at_once) \
  case lanes: weigh_lanes(lanes, at_once, weights, cache, page_ids, begin, end, totals); break;
    FOR_EACH_WIDTH(CALL)
#undef CALL
  }
}

// Scores of the tokens begin <= t < end of a lane become weights, and the lane's state takes them
// in.
static void soften(Tile* tile, int lane, float* scores, long begin, long end, long head_dim) {
  v16 hidden = all_lanes(-INFINITE), tops = hidden, sums = {0};
  long first = begin / LANES * LANES;
  for (long t = first; t < end; t += LANES) {
    i16 token = lane_numbers() + (int)t;
    v16 x = load_floats(scores + t);
    x = choose((token >= (int)begin) & (token < (int)end), x, hidden);
    store_floats(scores + t, x);
    tops = greater(tops, x);
  }
  float before = tile->top[lane], top = greatest_lane(tops);
  if (!(top > before)) top = before;
  tile->top[lane] = top;
  float base = top == -INFINITE ? 0.0f : top;  // -inf - (-inf) would be NaN
  for (long t = first; t < end; t += LANES) {
    v16 weight = exponential(load_floats(scores + t) - base);
    store_floats(scores + t, weight);
    sums += weight;
  }
  float shrink = exponential_of(before - base);
  tile->total[lane] = tile->total[lane] * shrink + sum_lanes(sums);
  if (shrink != 1.0f)
    for (long d = 0; d < head_dim; d += LANES)
      store_floats(&tile->sums[lane][d], load_floats(&tile->sums[lane][d]) * shrink);
}

// Let lanes attend to at most RUN tokens begin <= t < end, each lane to those from its low to below
// its high. A token that a lane does not see is never multiplied with: its values may be NaN.
static void attend_run(Tile* tile, int lanes, const Cache* cache, long begin, long end,
                       const long* low, const long* high) {
  float scores[TILE][SCORES];
  long from[TILE], to[TILE], all_from = 0, all_to = SCORES;
  long first_page = begin / PAGE, offset = first_page * PAGE;
  const int* page_ids = cache->page_table + first_page;
  score(lanes, tile->queries, cache, page_ids, (end - 1) / PAGE + 1 - first_page, scores);
  for (int lane = 0; lane < lanes; lane++) {
    from[lane] = (low[lane] > begin ? low[lane] : begin) - offset;
    to[lane] = (high[lane] < end ? high[lane] : end) - offset;
    if (from[lane] < to[lane])
      soften(tile, lane, scores[lane], from[lane], to[lane], cache->head_dim);
    all_from = from[lane] > all_from ? from[lane] : all_from;
    all_to = to[lane] < all_to ? to[lane] : all_to;
  }
  if (all_from >= all_to) all_from = all_to = SCORES;  // no token that all lanes see
  for (int lane = 0; lane < lanes; lane++) {
    long stop = to[lane] < all_from ? to[lane] : all_from;
    weigh(1, scores + lane, cache, page_ids, from[lane], stop, tile->sums + lane);
  }
  weigh(lanes, scores, cache, page_ids, all_from, all_to, tile->sums);
  for (int lane = 0; lane < lanes; lane++)
    weigh(1, scores + lane, cache, page_ids, all_to, to[lane], tile->sums + lane);
}

// Let lanes attend to the tokens begin <= t < end, in runs that are counted from `begin`.
static void attend(Tile* tile, int lanes, const Cache* cache, long begin, long end, const long* low,
                   const long* high) {
  long lowest = end, highest = begin;
  for (int lane = 0; lane < lanes; lane++) {
    lowest = low[lane] < lowest ? low[lane] : lowest;
    highest = high[lane] > highest ? high[lane] : highest;
  }
  for (long run = begin; run < end && run < highest; run += RUN) {
    long stop = run + RUN < end ? run + RUN : end;
    if (stop > highest) stop = highest;
    if (stop > lowest) attend_run(tile, lanes, cache, run, stop, low, high);
  }
}

// The attention of a lane that has seen all its tokens; one that saw none is 0.
INLINE v16 attended(const Tile* tile, int lane, long d) {
  float total = tile->total[lane];
  return load_floats(&tile->sums[lane][d]) / (total == 0.0f ? 1.0f : total);
}

// The first token of a page list that a row may see: its position is above the row's minus the
// window.
INLINE long first_in_window(long window, long row_position, long list_position) {
  return window ? row_position - window + 1 - list_position : 0;
}
