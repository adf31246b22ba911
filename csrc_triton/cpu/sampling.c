// Draws: temperature, top-k, top-p, min-p and one number through the inverse CDF, without a sort.
//
// A row without truncation is read once: the inverse CDF over the masses of its blocks selects a
// block, and that inside the block a token. Truncation keeps the tokens whose weight reaches a
// floor. A lower bound of the floor follows from the blocks; the tokens that reach it are packed,
// the floor is found among them, and those that it keeps are drawn from.

#include "logits.h"

typedef struct {
  float weight;
  int token;
} Candidate;

typedef struct {
  long long* ids;
  Candidate* packed;  // [workers, vocab]
  const float *top_ps, *min_ps;
  const long long *top_ks, *seeds, *indices;
  long* next_row;
  Summary summary;
} Work;

typedef struct {
  const element* logits;
  const float *block_tops, *block_masses;  // relative to the highest logit
  long vocab, blocks;
  float highest, inverse;
  double mass;
} Row;

INLINE int any_lane(i16 mask) {
  long long parts[8], any = 0;
  __builtin_memcpy(parts, &mask, sizeof parts);
  for (int i = 0; i < 8; i++) any |= parts[i];
  return any != 0;
}

INLINE unsigned long long mix(unsigned long long z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
  z = (z ^ z >> 27) * 0x94D049BB133111EB;
  return z ^ z >> 31;
}

// The number of `csrc_triton.uniform`, bit for bit.
static float uniform(long long seed, long long index) {
  const unsigned long long golden = 0x9E3779B97F4A7C15;
  unsigned long long key = mix((unsigned long long)seed + golden);
  return (float)(mix(key + ((unsigned long long)index + 1) * golden) >> 40) * 0x1p-24f;
}

// Append the tokens of a block whose weight is above 0 and at least `least`; return how many.
static long pack(const Row* r, long block, float least, Candidate* to) {
  long begin = block * BLOCK, end = begin + block_size(r->vocab, block), n = 0;
  // Below this exponent a weight is less than `least`, however the exponential is rounded.
  float low = least > 0.0f ? logarithm_of(least) - 1e-3f : -INFINITE;
  for (long token = begin; token < end; token += LANES) {
    v16 x = logits_at(r->logits + token, end - token);
    if (!any_lane((x - r->highest) * r->inverse >= low)) continue;
    float weights[LANES];
    store_floats(weights, weigh(x, r->highest, r->inverse));
    for (int i = 0; i < LANES && token + i < end; i++) {
      to[n] = (Candidate){weights[i], (int)token + i};
      n += (weights[i] > 0.0f) & (weights[i] >= least);
    }
  }
  return n;
}

static long keep(Candidate* packed, long n, float floor) {
  long kept = 0;
  for (long i = 0; i < n; i++) {
    Candidate one = packed[i];
    packed[kept] = one;
    kept += one.weight >= floor;
  }
  return kept;
}

static double mass_of(const Candidate* packed, long n) {
  double mass = 0.0;
  for (long i = 0; i < n; i++) mass += (double)packed[i].weight;
  return mass;
}

// The highest floor at or above which `needed` candidates lie, or candidates of that mass; 0 if all
// together do not suffice. Numbers that are not negative order as their bits do, so histograms over
// the bits, the leading ones first, find the floor exactly.
static float floor_with(const Candidate* packed, long n, double needed, int by_mass) {
  const int shifts[] = {20, 12, 4, 0};
  unsigned floor = 0;
  for (int level = 0, above = 30; level < 4; above = shifts[level++]) {  // no weight is 2 or more
    unsigned digit = (1u << (above - shifts[level])) - 1, digits = digit;
    double amounts[1024] = {0};
    for (long i = 0; i < n; i++) {
      unsigned bits;
      __builtin_memcpy(&bits, &packed[i].weight, sizeof bits);
      if ((bits ^ floor) >> above == 0)
        amounts[bits >> shifts[level] & digits] += by_mass ? (double)packed[i].weight : 1.0;
    }
    for (; digit && amounts[digit] < needed; digit--) needed -= amounts[digit];
    floor |= digit << shifts[level];
  }
  float weight;
  __builtin_memcpy(&weight, &floor, sizeof weight);
  return weight;
}

// A lower bound of the weights that top-k keeps: k blocks, or k lanes of blocks, whose highest
// weight reaches the bound hold k such tokens. 0 if there are fewer lanes.
static float rank_bound(const Row* r, long long top_k, Candidate* scratch) {
  if (top_k > r->vocab * LANES / BLOCK) return 0.0f;
  long lanes = top_k <= r->blocks ? 1 : LANES, n = 0;
  for (long block = 0; block < r->blocks; block++) {
    float weights[LANES] = {r->block_tops[block]};
    if (lanes > 1) {
      v16 tops = highest_lanes(r->logits + block * BLOCK, block_size(r->vocab, block));
      store_floats(weights, weigh(tops, r->highest, r->inverse));
    }
    for (long i = 0; i < lanes; i++) scratch[n++] = (Candidate){weights[i], 0};
  }
  return floor_with(scratch, n, (double)top_k, 0);
}

// The tokens that top-k keeps, of these the ones that top-p keeps, of these those of min-p.
static long truncate(const Row* r, long long top_k, float top_p, float min_p, Candidate* packed) {
  int by_rank = top_k > 0 && top_k < r->vocab, by_mass = top_p < 1.0f;
  float least = 0.0f;
  if (by_rank)
    least = rank_bound(r, top_k, packed);
  else if (by_mass)  // all weights below the bound together are no more than what may be dropped
    least = (float)((1.0 - (double)top_p) * r->mass / (double)r->vocab);
  // Top-p needs the mass of all tokens that top-k keeps, those below min-p too.
  if (!(by_rank && by_mass) && min_p > least) least = min_p;
  long n = 0;
  for (long block = 0; block < r->blocks; block++)
    if (r->block_tops[block] >= least) n += pack(r, block, least, packed + n);
  if (by_rank) n = keep(packed, n, floor_with(packed, n, (double)top_k, 0));
  if (by_mass) {
    double mass = by_rank ? mass_of(packed, n) : r->mass;
    n = keep(packed, n, floor_with(packed, n, (double)top_p * mass, 1));
  }
  return keep(packed, n, min_p);
}

// The first candidate at which the running sum exceeds this share of their mass; 0 without
// candidates.
static long long draw_from(const Candidate* packed, long n, double share) {
  double target = share * mass_of(packed, n), sum = 0.0;
  long i = 0;
  for (; i < n - 1; i++) {
    sum += (double)packed[i].weight;
    if (sum > target) break;
  }
  return n ? packed[i].token : 0;
}

// The first value above 0 at which the running sum exceeds the target, which becomes relative to
// the sum before it. If rounding keeps the sum at or below the target: the last value above 0, and
// no end.
static long first_above(const float* values, long n, double* target) {
  double sum = 0.0;
  long last = 0;
  for (long i = 0; i < n; i++) {
    if (!(values[i] > 0.0f)) continue;
    if (sum + (double)values[i] > *target) {
      *target -= sum;
      return i;
    }
    sum += (double)values[i];
    last = i;
  }
  *target = INFINITE;
  return last;
}

// The inverse CDF over the blocks, then over the vectors of a block, then over the lanes of a
// vector.
static long long draw_from_all(const Row* r, float u) {
  double target = (double)u * r->mass;
  long begin = first_above(r->block_masses, r->blocks, &target) * BLOCK;
  long size = block_size(r->vocab, begin / BLOCK), vectors = (size + LANES - 1) / LANES;
  float weights[BLOCK], sums[BLOCK / LANES];
  for (long v = 0; v < vectors; v++) {
    long t = v * LANES;
    v16 weight = weigh(logits_at(r->logits + begin + t, size - t), r->highest, r->inverse);
    store_floats(weights + t, weight);
    sums[v] = sum_lanes(weight);
  }
  long first = first_above(sums, vectors, &target) * LANES;
  return begin + first + first_above(weights + first, LANES, &target);
}

static long long first_highest(const Row* r) {
  for (long block = 0; block < r->blocks; block++) {
    if (r->block_tops[block] != r->highest) continue;
    for (long token = block * BLOCK; token < r->vocab; token++)
      if (to_float(r->logits[token]) == r->highest) return token;
  }
  return 0;  // all are NaN
}

static long long draw(const Work* w, long row, Candidate* packed) {
  const Summary* s = &w->summary;
  float temperature = s->temperatures[row], top_p = w->top_ps[row], min_p = w->min_ps[row];
  float highest = highest_of(s, row), inverse = inverse_temperature(temperature);
  Row r = {s->logits + row * s->row_stride,
           s->highest + row * s->blocks,
           s->masses + row * s->blocks,
           s->vocab,
           (s->vocab + BLOCK - 1) / BLOCK,
           highest,
           inverse,
           0.0};
  if (temperature == 0.0f) return first_highest(&r);
  r.mass = merge_blocks(s, row, highest, inverse);
  float u = uniform(w->seeds[row], w->indices[row]);
  long long top_k = w->top_ks[row];
  if (!(top_k > 0 && top_k < s->vocab) && !(top_p < 1.0f) && !(min_p > 0.0f))
    return draw_from_all(&r, u);
  return draw_from(packed, truncate(&r, top_k, top_p, min_p, packed), (double)u);
}

// Draws rows until none is left. Few workers share few packed rows, which then stay in the cache.
static void draw_task(const void* work, long worker) {
  const Work* w = work;
  for (;;) {
    long row = __atomic_fetch_add(w->next_row, 1, __ATOMIC_RELAXED);
    if (row >= w->summary.rows) return;
    w->ids[row] = draw(w, row, w->packed + worker * w->summary.vocab);
  }
}

// scratch: two numbers for each block of each row; `blocks` is a multiple of 16. packed: 8 bytes
// for each token of `workers` rows; a worker runs on one thread.
void sample(long long* ids, float* scratch, Candidate* packed, const element* logits,
            const float* temperatures, const long long* top_ks, const float* top_ps,
            const float* min_ps, const long long* seeds, const long long* indices, long rows,
            long row_stride, long vocab, long blocks, long workers, long threads) {
  long next_row = 0;
  Summary summary = {logits,     temperatures, scratch, scratch + rows * blocks, rows,
                     row_stride, vocab,        blocks,  1 + PIECE / vocab};
  Work work = {ids, packed, top_ps, min_ps, top_ks, seeds, indices, &next_row, summary};
  summarise(&summary, threads);
  parallel_for(workers, threads, draw_task, &work);
}
