// The program file, as it lies in memory: a header, tables of tensors and operators, then the weights, all 64-aligned.
#pragma once
#include <cstdint>

namespace podar {

constexpr char kMagic[8] = {'P', 'O', 'D', 'A', 'R', 'S', 'P', '\n'};

struct Header {
  char magic[8];
  uint32_t format;
  uint32_t tensors, ops, inputs, outputs;
  uint32_t reserved;
  uint64_t bytes;         // of the whole file
  uint64_t arena_floats;  // what all activations need
  uint64_t tensor_table, op_table;
  uint64_t meta, meta_bytes;  // JSON for people and for Python: names, shapes, what was decided
  uint8_t digest[32];         // of everything after the header
};
static_assert(sizeof(Header) == 112, "the layout is the file's");

// Planes, zero-padded: element (c, y, x) lies at base + c·plane + y·stride + x. Before each plane lie `lead` zeros,
// after each row stride − width; so the pad of one row or plane serves the next one too.
struct Tensor {
  int64_t base;
  int32_t channels, height, width;
  int32_t stride, plane, lead;
};
static_assert(sizeof(Tensor) == 32, "the layout is the file's");

enum Kind : int32_t { kInput, kOutput, kConv, kPhase, kLinear, kMaxPool, kAvgPool, kMean, kAdd, kMul, kAct, kCopy, kUpsample, kDepthwise,
                      kAttention, kJoin, kConstant };

enum Act : int32_t { kNone, kRelu, kLeaky, kClamp, kSigmoid, kSilu, kGelu, kGeluTanh, kHardSwish, kHardSigmoid, kTanh, kAffine, kLastAct = kAffine };

enum Flag : int32_t { kMasked = 1, kResidualAfter = 2, kExcludePad = 4, kPerChannel = 8, kRows = 16, kPaired = 32, kSubtract = 64, kPerPosition = 128 };

struct Op {
  int32_t kind, flags;
  int32_t in, in2, out;  // tensors; in2: residual or second operand, or −1
  int32_t act;
  float a, b;      // of the activation: slope; lower and upper bound; factor and summand
  int32_t p[12];   // by kind, see work.h
  int64_t at[4];   // where the weights lie in the file: list starts, entries, weights of other kinds, bias
};
static_assert(sizeof(Op) == 112, "the layout is the file's");

}  // namespace podar
