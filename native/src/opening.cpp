// Opens a program: refuses every file whose operators would read or write outside their tensors, before anything runs.
#include <algorithm>
#include <cstring>

#include "engine.h"
#include "podar_native.h"

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
  if (header.format != PODAR_FORMAT)
    throw Refused("the program has format " + std::to_string(header.format) + ", this podar-native reads format " + std::to_string(PODAR_FORMAT) + ": prepare it again");
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
  require(header.inputs <= header.ops && header.outputs <= header.ops, "it has more inputs or outputs than operators");
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
    if ((!(ops[i].flags & kMasked) && ops[i].kind != kDepthwise && ops[i].kind != kMean) || ops[i].out < 0) continue;
    const Tensor& out = tensors[ops[i].kind == kMean ? ops[i].in : ops[i].out];
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
    const int64_t end = std::max(end_of(t), t.base + static_cast<int64_t>(t.channels) * t.plane);
    require(t.base >= t.lead && end + t.lead + 16 <= arena, "a tensor lies outside the arena");
    used = std::max(used, end + t.lead);
  }
  require(arena - used < (1 << 20), "it asks for more memory than its tensors need");
  auto* self = const_cast<Engine*>(this);
  for (size_t i = 0; i < ops.size(); ++i) {
    check_op(i);
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

void Engine::check_op(size_t index) const {
  const Op& op = ops[index];
  const Op* next = index + 1 < ops.size() ? &ops[index + 1] : nullptr;
  const bool after_its_pair = index > 0 && (ops[index - 1].flags & kPaired) && ops[index - 1].kind == kConv && ops[index - 1].out == op.in;
  const auto count = static_cast<int32_t>(tensors.size());
  require(op.kind >= kInput && op.kind <= kConstant, "an operator is unknown");
  require(op.act >= kNone && op.act <= kLastAct, "an activation is unknown");
  require(op.kind == kInput || op.kind == kConstant ? op.in == -1 : op.in >= 0 && op.in < count, "an operator has no input");
  require(op.kind == kOutput ? op.out == -1 : op.out >= 0 && op.out < count, "an operator has no output");
  require(op.in2 >= -1 && op.in2 < count, "an operator's second input does not exist");
  require(op.p[10] >= 0 && op.p[11] >= 0, "a chain is malformed");
  require(!(op.flags & kPaired) || op.kind == kConv, "a pair is malformed");
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
      const bool linear = op.kind == kLinear;
      // A pair's first writes some channels at a time: as many as its output has planes.
      const bool paired = op.flags & kPaired;
      if (paired)
        require(!linear && op.in2 == -1 && !op.p[11] && next && next->kind == kDepthwise && next->in == op.out && next->out >= 0 &&
                    next->out < count && out.channels % std::max(op.p[0], 1) == 0,
                "a pair is malformed");
      const int32_t channels = paired ? tensors[next->out].channels : out.channels;
      const int32_t rows = linear ? 1 : op.p[0], blocks = linear ? channels : op.p[1];
      const int32_t input_blocks = linear ? 1 : op.p[2], entries = op.p[4];
      require(rows == 1 || rows == 4 || rows == 8, "a block has no 1, 4 or 8 rows");
      require(blocks == (channels + rows - 1) / rows && input_blocks >= 1 && entries >= 0, "a convolution's blocks do not fit its output");
      const auto* starts = reinterpret_cast<const int32_t*>(block(0, static_cast<int64_t>(input_blocks) * (blocks + 1)));
      const auto* words = reinterpret_cast<const int32_t*>(block(1, static_cast<int64_t>(entries) * (rows + 1)));
      require(op.at[1] % 8 == 0, "a list of weights is not aligned");
      block(3, static_cast<int64_t>(blocks) * rows);
      for (int64_t i = 0; i < input_blocks; ++i)
        for (int32_t o = 0; o < blocks; ++o) {
          const int32_t a = starts[i * (blocks + 1) + o], b = starts[i * (blocks + 1) + o + 1];
          require(a >= 0 && a <= b && b <= entries, "a list of weights is malformed");
        }
      int32_t low = 0, high = 0;
      for (int32_t k = 0; k < entries; ++k) {
        const int32_t offset = words[static_cast<int64_t>(k) * (rows + 1) + rows];
        low = std::min(low, offset);
        high = std::max(high, offset);
      }
      if (linear)
        require(low >= 0 && high < in->channels, "a weight reads outside its input");
      else
        require(in->base + low >= 0 && in->base + high + positions(out) <= static_cast<int64_t>(header.arena_floats),
                "a weight reads outside the arena");
      if (op.in2 >= 0)
        require(tensors[op.in2].channels == out.channels && positions(tensors[op.in2]) >= (linear ? 1 : positions(out)), "a residual has another shape");
      require(!linear || out.height * out.width == 1, "a linear layer has more than one position");
      break;
    }
    case kAttention: {
      const int32_t heads = op.p[0], keys = op.p[1], values = op.p[2];
      require(heads > 0 && keys > 0 && values > 0 && heads <= out.channels && values <= out.channels && heads * static_cast<int64_t>(values) == out.channels &&
                  in->height == out.height && in->width == out.width && in->stride == out.stride && in->height * static_cast<int64_t>(in->width) <= 8192,
              "an attention is malformed");
      for (int i = 0; i < 3; ++i) {
        const int64_t first = op.p[3 + 2 * i], step = op.p[4 + 2 * i], last = first + (heads - 1) * step + (i < 2 ? keys : values);
        require(first >= 0 && step >= 0 && last <= in->channels, "an attention reads outside its input");
      }
      require(static_cast<int64_t>(keys) * in->plane < (int64_t{1} << 31), "an attention is too large");
      break;
    }
    case kJoin:
      require(in->channels == out.channels && out.height == 1 && op.p[0] >= 0 && op.p[0] + static_cast<int64_t>(in->height) * in->width <= out.width,
              "joined positions do not fit");
      break;
    case kConstant: block(2, static_cast<int64_t>(out.channels) * out.height * out.width); break;
    case kDepthwise: {
      const int64_t kernel = op.p[0], step = op.p[1], above = op.p[2], before = op.p[3];
      require((kernel == 3 || kernel == 5 || kernel == 7) && (step == 1 || step == 2) && above >= 0 && before >= 0 && above < kernel && before < kernel,
              "a depthwise convolution is malformed");
      block(2, static_cast<int64_t>(out.channels) * kernel * kernel);
      block(3, out.channels);
      // In whole vectors of at most 16 columns, before the first plane and after the last; a pair reads few planes.
      const int64_t first = -above * in->stride - before;
      const int64_t columns = std::max<int64_t>(out.width, 16) * step + kernel + 16;
      const int64_t end = first + ((out.height - 1) * step + kernel - 1) * in->stride + columns;
      require(-first <= in->lead && in->base + static_cast<int64_t>(in->channels - 1) * in->plane + end <= static_cast<int64_t>(header.arena_floats) &&
                  end <= in->plane + in->lead + 1024 - 32,
              "a depthwise convolution reads outside its input");
      require(!op.p[11] && (in->channels == out.channels || after_its_pair), "a depthwise convolution changes the channels");
      break;
    }
    case kInput:
    case kPhase: {
      const int32_t channels = in ? in->channels : op.p[5], height = in ? in->height : op.p[6], width = in ? in->width : op.p[7];
      require(channels > 0 && height > 0 && width > 0, "an input is empty");
      require(!in || in->base + static_cast<int64_t>(in->channels - 1) * in->plane + static_cast<int64_t>(in->height - 1) * in->stride + in->width + 32 <=
                         static_cast<int64_t>(header.arena_floats),
              "phases read outside their input");
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
      for (int i = 0; i < 4; ++i) require(op.p[i] <= 65536, "a pooling window is too large");
      require(static_cast<int64_t>(out.height - 1) * op.p[2] - op.p[4] < in->height && static_cast<int64_t>(out.width - 1) * op.p[3] - op.p[5] < in->width, "a pooling window lies outside its input");
      break;
    case kMean: require(in->channels == out.channels && out.height * out.width == 1, "a mean has another shape"); break;
    case kAct: require(same_planes(*in, out), "an activation changes the shape"); break;
    case kAdd:
    case kMul: {
      require(op.in2 >= 0 && same_planes(*in, out), "operands have different shapes");
      const Tensor& second = tensors[op.in2];
      const bool every = op.flags & kPerPosition;
      require(op.flags & kPerChannel ? second.channels == out.channels && second.height * second.width == 1
              : every ? second.height == out.height && second.width == out.width && second.stride == out.stride
                      : same_planes(second, out),
              "operands have different shapes");
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
