// Opens a program: refuses every file whose operators would read or write outside their tensors, before anything runs.
#include <algorithm>
#include <cstring>

#include "engine.h"

namespace podar {
namespace {

void require(bool holds, const char* what) {
  if (!holds) throw Refused(std::string("this is no program that the engine can run: ") + what);
}

int64_t positions(const Tensor& t) { return (static_cast<int64_t>(t.height) * t.stride + 15) / 16 * 16; }

// The floats after a tensor's last plane that a kernel may read: the next plane's lead, or the arena's slack.
int64_t end_of(const Tensor& t) { return t.base + static_cast<int64_t>(t.channels - 1) * t.plane + positions(t); }

bool same_planes(const Tensor& a, const Tensor& b) {
  return a.channels == b.channels && a.height == b.height && a.width == b.width && a.stride == b.stride;
}

}  // namespace

Engine::Engine(const void* image_, size_t bytes_, const char* wanted) : image(static_cast<const uint8_t*>(image_)), bytes(bytes_) {
  require(bytes >= sizeof(Header), "it is too short");
  std::memcpy(&header, image, sizeof(Header));
  require(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "it does not begin with PODARSP");
  if (header.format != 1)
    throw Refused("the program has format " + std::to_string(header.format) + ", this podar-native reads format 1: prepare it again");
  require(header.bytes == bytes, "it was cut off");
  require(reinterpret_cast<uintptr_t>(image) % 64 == 0, "it is not aligned to 64 bytes");
  auto table = [&](uint64_t at, uint64_t count, uint64_t size) {
    require(at % 8 == 0 && at <= bytes && count <= (bytes - at) / size, "a table lies outside the file");
    return image + at;
  };
  const auto* t = reinterpret_cast<const Tensor*>(table(header.tensor_table, header.tensors, sizeof(Tensor)));
  const auto* o = reinterpret_cast<const Op*>(table(header.op_table, header.ops, sizeof(Op)));
  tensors.assign(t, t + header.tensors);
  ops.assign(o, o + header.ops);
  require(header.arena_floats < (uint64_t{1} << 40), "it asks for too much memory");
  inputs.assign(header.inputs, -1);
  outputs.assign(header.outputs, -1);
  check();

  const auto available = levels();
  level = available.front();
  if (wanted && *wanted) {
    level = nullptr;
    std::string names;
    for (const Level* l : available) {
      names += names.empty() ? l->name : std::string(", ") + l->name;
      if (std::strcmp(l->name, wanted) == 0) level = l;
    }
    if (!level) throw Refused("this processor does not run the level " + std::string(wanted) + ": it runs " + names);
  }

  arena_ = std::make_unique<Arena>(header.arena_floats);
  progress_.assign(ops.size(), 0);
  producer_.assign(tensors.size(), -1);
  for (size_t i = 0; i < ops.size(); ++i)
    if (ops[i].p[11] && ops[i].out >= 0) producer_[ops[i].out] = static_cast<int>(i);
  mask_of_.assign(ops.size(), nullptr);
  for (size_t i = 0; i < ops.size(); ++i) {
    if (!(ops[i].flags & kMasked) || ops[i].out < 0) continue;
    const Tensor& out = tensors[ops[i].out];
    auto& mask = masks_[{out.height, out.width, out.stride}];
    if (mask.empty()) {
      mask.assign(positions(out), 0);
      for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x) mask[static_cast<int64_t>(y) * out.stride + x] = ~uint32_t{0};
    }
    mask_of_[i] = mask.data();
  }
}

void Engine::check() const {
  const auto arena = static_cast<int64_t>(header.arena_floats);
  int64_t used = 0;
  for (const Tensor& t : tensors) {
    require(t.channels > 0 && t.height > 0 && t.width > 0 && t.channels < (1 << 24) && t.height < (1 << 20) && t.width < (1 << 20),
            "a tensor is empty or too large");
    require(t.stride >= t.width && t.lead >= 0 && t.lead % 16 == 0 && t.plane % 16 == 0 && t.base % 16 == 0, "a tensor's planes are not aligned");
    require(t.channels == 1 || t.plane >= positions(t), "a tensor's planes overlap");
    require(t.base >= t.lead && end_of(t) + t.lead + 16 <= arena, "a tensor lies outside the arena");
    used = std::max(used, end_of(t) + t.lead);
  }
  require(arena - used < (1 << 20), "it asks for more memory than its tensors need");
  auto* self = const_cast<Engine*>(this);
  for (size_t i = 0; i < ops.size(); ++i) {
    check_op(ops[i]);
    auto& list = ops[i].kind == kInput ? self->inputs : self->outputs;
    if (ops[i].kind == kInput || ops[i].kind == kOutput) {
      const int32_t index = ops[i].p[3];
      require(index >= 0 && index < static_cast<int32_t>(list.size()), "an input or output has no place");
      list[index] = static_cast<int>(i);
    }
  }
  for (int i : inputs) require(i >= 0, "an input is missing");
  for (int i : outputs) require(i >= 0, "an output is missing");
}

void Engine::check_op(const Op& op) const {
  const auto count = static_cast<int32_t>(tensors.size());
  require(op.kind >= kInput && op.kind <= kUpsample, "an operator is unknown");
  require(op.act >= kNone && op.act <= kLastAct, "an activation is unknown");
  require(op.kind == kInput ? op.in == -1 : op.in >= 0 && op.in < count, "an operator has no input");
  require(op.kind == kOutput ? op.out == -1 : op.out >= 0 && op.out < count, "an operator has no output");
  require(op.in2 >= -1 && op.in2 < count, "an operator's second input does not exist");
  require(op.p[10] >= 0 && op.p[11] >= 0, "a chain is malformed");
  if (op.kind == kOutput) return;
  const Tensor& out = tensors[op.out];
  const Tensor* in = op.in >= 0 ? &tensors[op.in] : nullptr;
  auto block = [&](int which, int64_t items) {
    const int64_t at = op.at[which];
    require(at >= 0 && at % 4 == 0 && items >= 0 && at <= static_cast<int64_t>(bytes) && items <= (static_cast<int64_t>(bytes) - at) / 4,
            "weights lie outside the file");
    return image + at;
  };
  switch (op.kind) {
    case kConv:
    case kLinear: {
      const int32_t rows = op.kind == kConv ? op.p[0] : 1, blocks = op.kind == kConv ? op.p[1] : out.channels;
      const int32_t input_blocks = op.kind == kConv ? op.p[2] : 1, entries = op.p[4];
      require(rows == 1 || rows == 4 || rows == 8, "a block has no 1, 4 or 8 rows");
      require(blocks == (out.channels + rows - 1) / rows && input_blocks >= 1 && entries >= 0, "a convolution's blocks do not fit its output");
      const auto* starts = reinterpret_cast<const int32_t*>(block(0, static_cast<int64_t>(input_blocks) * (blocks + 1)));
      const auto* offsets = reinterpret_cast<const int32_t*>(block(1, entries));
      block(2, static_cast<int64_t>(entries) * rows);
      block(3, static_cast<int64_t>(blocks) * rows);
      for (int64_t i = 0; i < input_blocks; ++i)
        for (int32_t o = 0; o < blocks; ++o) {
          const int32_t a = starts[i * (blocks + 1) + o], b = starts[i * (blocks + 1) + o + 1];
          require(a >= 0 && a <= b && b <= entries, "a list of weights is malformed");
        }
      int32_t low = 0, high = 0;
      for (int32_t k = 0; k < entries; ++k) {
        low = std::min(low, offsets[k]);
        high = std::max(high, offsets[k]);
      }
      const int64_t n = op.kind == kConv ? positions(out) : 1;
      require(in->base + low >= 0 && in->base + high + n <= static_cast<int64_t>(header.arena_floats), "a weight reads outside the arena");
      if (op.in2 >= 0)
        require(tensors[op.in2].channels == out.channels && positions(tensors[op.in2]) >= n, "a residual has another shape");
      require(op.kind == kConv || out.height * out.width == 1, "a linear layer has more than one position");
      break;
    }
    case kInput:
    case kPhase: {
      const int32_t channels = in ? in->channels : op.p[5], height = in ? in->height : op.p[6], width = in ? in->width : op.p[7];
      require(channels > 0 && height > 0 && width > 0, "an input is empty");
      require(op.p[0] >= 1 && op.p[1] >= 1 && op.p[0] <= 30 && op.p[1] <= 30 && op.p[0] * op.p[1] <= 30, "a stride is too large");
      int32_t kept = 0;
      for (int i = 0; i < op.p[0] * op.p[1]; ++i) kept += op.p[4] >> i & 1;
      require(kept == op.p[2] && static_cast<int64_t>(kept) * channels == out.channels, "phases do not fit their output");
      require(static_cast<int64_t>(out.height) * op.p[0] >= height && static_cast<int64_t>(out.width) * op.p[1] >= width, "phases do not fit their output");
      require(!(op.flags & kRows) || (op.kind == kInput && op.p[0] * op.p[1] == 1 && height == 1), "rows are malformed");
      break;
    }
    case kMaxPool:
    case kAvgPool:
      require(in->channels == out.channels, "pooling changes the channels");
      require(op.p[0] > 0 && op.p[1] > 0 && op.p[2] > 0 && op.p[3] > 0 && op.p[4] >= 0 && op.p[5] >= 0 && op.p[4] < op.p[0] && op.p[5] < op.p[1], "a pooling window is malformed");
      require(static_cast<int64_t>(out.height - 1) * op.p[2] - op.p[4] < in->height && static_cast<int64_t>(out.width - 1) * op.p[3] - op.p[5] < in->width, "a pooling window lies outside its input");
      break;
    case kMean: require(in->channels == out.channels && out.height * out.width == 1, "a mean has another shape"); break;
    case kAct: require(same_planes(*in, out), "an activation changes the shape"); break;
    case kAdd:
    case kMul: {
      require(op.in2 >= 0 && same_planes(*in, out), "operands have different shapes");
      const Tensor& second = tensors[op.in2];
      require(op.flags & kPerChannel ? second.channels == out.channels && second.height * second.width == 1 : same_planes(second, out), "operands have different shapes");
      require(op.kind == kMul || !(op.flags & kPerChannel), "an addition per channel is not known");
      break;
    }
    case kCopy: require(in->channels == out.channels && in->height == out.height && in->width == out.width, "a copy changes the shape"); break;
    case kUpsample:
      require(in->channels == out.channels && op.p[0] > 0 && op.p[1] > 0 && in->height * op.p[0] == out.height && in->width * op.p[1] == out.width, "an enlargement has another shape");
      break;
    default: break;
  }
}

}  // namespace podar
