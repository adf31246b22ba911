// Weights [outputs, inputs] to bytes [blocks, padded / STEP, 16, STEP] and scales [blocks, groups,
// 16], and back.

#include "dot.h"
#include "parallel.h"
#include "quantize.h"

typedef struct {
  unsigned char* bytes;
  float* scales;
  const element* weight;
  float* dense;
  long outputs, inputs, group, parts;
} Weight;

// The output that a lane of a block holds, or -1.
static long output_of(const Weight* w, long block, int lane) {
  long output = block / w->parts * LANES + lane;
  return output < w->outputs ? block % w->parts * w->outputs + output : -1;
}

static unsigned char* bytes_of(const Weight* w, long block) {
  return w->bytes + block * ((w->inputs + 3) / 4 * 4) * LANES;
}

INLINE long place_of(long input, int lane) {
  return (input / STEP * LANES + lane) * STEP + input % STEP;
}

static void quantize_block(const void* work, long block) {
  const Weight* w = work;
  unsigned char* bytes = bytes_of(w, block);
  __builtin_memset(bytes, ZERO, (w->inputs + 3) / 4 * 4 * LANES);
  long groups = (w->inputs + w->group - 1) / w->group;
  float* scales = w->scales + block * groups * LANES;
  for (int lane = 0; lane < LANES; lane++) {
    long output = output_of(w, block, lane);
    for (long group = 0; group < groups; group++) {
      long begin = group * w->group, end = begin + w->group;
      if (end > w->inputs) end = w->inputs;
      Scale scale = {0};
      const element* weight = w->weight + output * w->inputs;
      if (output >= 0) scale = scale_of(weight + begin, end - begin);
      scales[group * LANES + lane] = scale.scale;
      for (long i = begin; i < end && output >= 0; i += LANES) {
        i16 some = quantized(load_up_to(weight + i, end - i), scale);
        for (int j = 0; j < LANES && i + j < end; j++)
          bytes[place_of(i + j, lane)] = (unsigned char)(some[j] + ZERO);
      }
    }
  }
}

static void dequantize_block(const void* work, long block) {
  const Weight* w = work;
  const unsigned char* bytes = bytes_of(w, block);
  long groups = (w->inputs + w->group - 1) / w->group;
  const float* scales = w->scales + block * groups * LANES;
  for (int lane = 0; lane < LANES; lane++) {
    long output = output_of(w, block, lane);
    for (long i = 0; i < w->inputs && output >= 0; i++) {
      signed char byte = (signed char)(bytes[place_of(i, lane)] - ZERO);
      w->dense[output * w->inputs + i] = (float)byte * scales[i / w->group * LANES + lane];
    }
  }
}

static Weight weight_of(unsigned char* bytes, float* scales, long outputs, long inputs, long group,
                        long gated) {
  return (Weight){.bytes = bytes,
                  .scales = scales,
                  .outputs = outputs,
                  .inputs = inputs,
                  .group = group,
                  .parts = gated ? 2 : 1};
}

static long blocks_of(const Weight* w) { return (w->outputs + LANES - 1) / LANES * w->parts; }

// With a gate `outputs` is the number of each half; the halves' blocks take turns.
void quantize_weight(unsigned char* bytes, float* scales, const element* weight, long outputs,
                     long inputs, long group, long gated, long threads) {
  Weight work = weight_of(bytes, scales, outputs, inputs, group, gated);
  work.weight = weight;
  parallel_for(blocks_of(&work), threads, quantize_block, &work);
}

void dequantize_weight(float* dense, unsigned char* bytes, float* scales, long outputs, long inputs,
                       long group, long gated, long threads) {
  Weight work = weight_of(bytes, scales, outputs, inputs, group, gated);
  work.dense = dense;
  parallel_for(blocks_of(&work), threads, dequantize_block, &work);
}
