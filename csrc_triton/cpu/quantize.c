// Weights [outputs, inputs] to bytes and scales for 16 outputs at once, and back: bytes [blocks]
// [padded / STEP][16][STEP], scales [blocks][groups][16]. With a gate `outputs` is the number of
// each half, and the blocks of the halves take turns.

#include "quantize.h"

#include "dot.h"
#include "parallel.h"

typedef struct {
  unsigned char* bytes;
  float* scales;
  const element* weight;
  float* dense;
  Groups in;
  long outputs, parts;
} Weight;

// The output that a lane of a block holds, or -1.
static long output_of(const Weight* w, long block, int lane) {
  long output = block / w->parts * LANES + lane;
  return output < w->outputs ? block % w->parts * w->outputs + output : -1;
}

static unsigned char* byte_of(const Weight* w, long block, int lane, long input) {
  long place = (input / STEP * LANES + lane) * STEP + input % STEP;
  return w->bytes + block * w->in.padded * LANES + place;
}

static float* scale_at(const Weight* w, long block, int lane, long group) {
  return w->scales + (block * w->in.groups + group) * LANES + lane;
}

static void quantize_lane(const Weight* w, long block, int lane) {
  long output = output_of(w, block, lane);
  const element* weight = w->weight + output * w->in.inputs;
  for (long group = 0; group < w->in.groups; group++) {
    long begin = group * w->in.group, end = end_of(group, w->in.group, w->in.inputs);
    Scale scale = {0};
    if (output >= 0) scale = scale_of(weight + begin, end - begin);
    *scale_at(w, block, lane, group) = scale.scale;
    for (long i = begin; i < end && output >= 0; i += LANES) {
      i16 some = quantized(load_up_to(weight + i, end - i), scale);
      for (int j = 0; j < LANES && i + j < end; j++)
        *byte_of(w, block, lane, i + j) = (unsigned char)(some[j] + ZERO);
    }
  }
}

static void quantize_block(const void* work, long block) {
  const Weight* w = work;
  __builtin_memset(byte_of(w, block, 0, 0), ZERO, (unsigned long)(w->in.padded * LANES));
  for (int lane = 0; lane < LANES; lane++) quantize_lane(w, block, lane);
}

static void dequantize_block(const void* work, long block) {
  const Weight* w = work;
  for (int lane = 0; lane < LANES; lane++) {
    long output = output_of(w, block, lane);
    for (long i = 0; i < w->in.inputs && output >= 0; i++) {
      signed char integer = (signed char)(*byte_of(w, block, lane, i) - ZERO);
      w->dense[output * w->in.inputs + i] =
          (float)integer * *scale_at(w, block, lane, i / w->in.group);
    }
  }
}

static void for_each_block(Task task, Weight work, long gated, long threads) {
  work.parts = gated ? 2 : 1;
  parallel_for((work.outputs + LANES - 1) / LANES * work.parts, threads, task, &work);
}

void quantize_weight(unsigned char* bytes, float* scales, const element* weight, long outputs,
                     long inputs, long group, long gated, long threads) {
  Weight work = {bytes, scales, weight, 0, groups_of(inputs, group), outputs, 0};
  for_each_block(quantize_block, work, gated, threads);
}

void dequantize_weight(float* dense, unsigned char* bytes, float* scales, long outputs, long inputs,
                       long group, long gated, long threads) {
  Weight work = {bytes, scales, 0, dense, groups_of(inputs, group), outputs, 0};
  for_each_block(dequantize_block, work, gated, threads);
}
