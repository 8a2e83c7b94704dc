// Everything that is no convolution: phases, pooling, sums and products, copies, inputs and outputs.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "threads.h"
#include "work.h"

namespace podar {
namespace {

// Rows of one plane from a source of any stride; the rest of each row, and of the plane, becomes zero.
void fill_plane(const float* from, int64_t from_stride, int rows, int columns, const Tensor& t, float* to, int y0, int y1) {
  for (int y = y0; y < y1; ++y) {
    float* row = to + static_cast<int64_t>(y) * t.stride;
    const int n = y < rows ? columns : 0;
    if (n) std::memcpy(row, from + y * from_stride, n * sizeof(float));
    std::fill(row + n, row + t.stride, 0.0f);
  }
}

}  // namespace

void zero_tail(const Tensor& t, float* plane) {
  const int64_t end = static_cast<int64_t>(t.height) * t.stride;
  std::fill(plane + end, plane + round_up(end, 16), 0.0f);
}

// The zeros before the first plane and after each: the memory may have held something else.
void zero_between(const Tensor& t, float* planes) {
  std::fill_n(planes - t.lead, t.lead, 0.0f);
  const int64_t image = static_cast<int64_t>(t.height - 1) * t.stride + t.width;
  const int64_t end = std::max<int64_t>(t.plane, round_up(static_cast<int64_t>(t.height) * t.stride, 16));
  for (int c = 0; c < t.channels; ++c) {
    float* plane = planes + static_cast<int64_t>(c) * t.plane;
    std::fill(plane + image, plane + end, 0.0f);
  }
}

void Work::phases() const {
  const bool outside = op.kind == kInput;
  const int64_t area = outside ? static_cast<int64_t>(op.p[6]) * op.p[7] : in_tensor->plane;
  const int height = outside ? op.p[6] : in_tensor->height, width = outside ? op.p[7] : in_tensor->width;
  const int64_t stride = outside ? width : in_tensor->stride;
  const int channels = outside ? op.p[5] : in_tensor->channels;
  const int sy = op.p[kStepY], sx = op.p[kStepX], phases = op.p[kPhases];
  const int spills = t.height - (kernels.vector + t.stride - 1) / t.stride - 1;
  auto part = [&](int i, int n) {
    auto [first, last] = share(channels, i, n);
    for (int c = first; c < last; ++c) {
      const float* from_plane = in + c * area;
      float* plane = out + static_cast<int64_t>(c) * phases * t.plane;
      if (op.flags & kRows) {
        for (int x = 0; x < width; ++x) plane[x] = in[static_cast<int64_t>(x) * channels + c];
        std::fill(plane + width, plane + t.stride, 0.0f);
        zero_tail(t, plane);
        continue;
      }
      if (sy == 1 && sx == 1) {
        fill_plane(from_plane, stride, height, width, t, plane, first_row(), last_row());
        if (last_strip()) zero_tail(t, plane);
        continue;
      }
      int kept = 0;
      for (int a = 0; a < sy; ++a) {
        float* places[30] = {};  // of this row's phases
        bool any = false;
        for (int b = 0; b < sx; ++b)
          if (op.p[kMaskOf] >> (a * sx + b) & 1) {
            places[b] = plane + static_cast<int64_t>(kept++) * t.plane;
            any = true;
          }
        if (!any) continue;
        for (int y = first_row(); y < last_row(); ++y) {
          const int from_y = y * sy + a;
          float* rows[30];
          for (int b = 0; b < sx; ++b) rows[b] = places[b] ? places[b] + static_cast<int64_t>(y) * t.stride : nullptr;
          // What is written after a row is overwritten by the next ones, as long as they lie in this plane.
          if (from_y < height) kernels.split_row(from_plane + from_y * stride, width, sx, rows, !outside, y < spills);
          for (int b = 0; b < sx; ++b) {
            if (!rows[b]) continue;
            const int filled = from_y < height && b < width ? (width - b + sx - 1) / sx : 0;
            std::fill(rows[b] + filled, rows[b] + t.stride, 0.0f);
          }
        }
        if (last_strip())
          for (int b = 0; b < sx; ++b)
            if (places[b]) zero_tail(t, places[b]);
      }
    }
  };
  in_parallel(threads, part);
}

void Work::pool() const {
  const int kh = op.p[kHigh], kw = op.p[kWide], sh = op.p[kDown], sw = op.p[kAcross], ph = op.p[kPadY], pw = op.p[kPadX];
  const bool max = op.kind == kMaxPool;
  const int length = std::max((t.width + 16) * sw + kw, pw + in_tensor->width) + 32;  // whole vectors
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    std::vector<float> scratch(length, max ? -std::numeric_limits<float>::infinity() : 0.0f);
    std::vector<const float*> rows(kh);
    for (int c = first; c < last; ++c) {
      const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
      float* to_plane = out + static_cast<int64_t>(c) * t.plane;
      for (int y = first_row(); y < last_row(); ++y) {
        const int top = std::max(y * sh - ph, 0), bottom = std::min(y * sh - ph + kh, in_tensor->height);
        for (int r = top; r < bottom; ++r) rows[r - top] = plane + static_cast<int64_t>(r) * in_tensor->stride;
        float* row = to_plane + static_cast<int64_t>(y) * t.stride;
        (max ? kernels.max_row : kernels.sum_row)(rows.data(), bottom - top, in_tensor->width, scratch.data(), pw, kw,
                                                  sw, row, t.width);
        if (!max)
          for (int x = 0; x < t.width; ++x) {
            const int left = std::max(x * sw - pw, 0), right = std::min(x * sw - pw + kw, in_tensor->width);
            row[x] /= static_cast<float>(op.flags & kExcludePad ? (bottom - top) * (right - left) : kh * kw);
          }
        std::fill(row + t.width, row + t.stride, 0.0f);
      }
      if (last_strip()) zero_tail(t, to_plane);
    }
  };
  in_parallel(threads, part);
}

void Work::mean() const {
  const int64_t read = round_up(static_cast<int64_t>(in_tensor->height) * in_tensor->stride, 16);
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) {
      const double sum = kernels.sum(in + static_cast<int64_t>(c) * in_tensor->plane, mask, read);
      out[static_cast<int64_t>(c) * t.plane] = static_cast<float>(sum / (static_cast<double>(in_tensor->height) * in_tensor->width));
    }
  };
  in_parallel(threads, part);
}

void Work::elementwise() const {
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) {
      const float* x = in + static_cast<int64_t>(c) * in_tensor->plane + from;
      float* y = out + static_cast<int64_t>(c) * t.plane + from;
      if (op.kind == kAct) {
        if (x != y) std::memcpy(y, x, (to - from) * sizeof(float));
      } else {
        const Tensor& second = tensors[op.in2];
        const int channel = (op.flags & kPerPosition) ? 0 : c;
        const float* z = base + second.base + static_cast<int64_t>(channel) * second.plane;
        if (op.flags & kPerChannel)
          kernels.scale(x, *z, y, to - from);
        else
          (op.kind == kMul ? kernels.mul : op.flags & kSubtract ? kernels.subtract : kernels.add)(x, z + from, y, to - from);
      }
      kernels.activate(y, to - from, op.act, op.a, op.b);
      if (inside()) kernels.keep(y, inside() + from, to - from);
    }
  };
  in_parallel(threads, part);
}

void Work::copy() const {
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) {
      float* plane = out + static_cast<int64_t>(c) * t.plane;
      fill_plane(in + static_cast<int64_t>(c) * in_tensor->plane, in_tensor->stride, t.height, t.width, t, plane, 0, t.height);
      zero_tail(t, plane);
    }
  };
  in_parallel(threads, part);
}

void Work::upsample() const {
  const int fy = op.p[0], fx = op.p[1];
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) {
      const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
      float* to_plane = out + static_cast<int64_t>(c) * t.plane;
      for (int y = 0; y < t.height; ++y) {
        const float* x = plane + static_cast<int64_t>(y / fy) * in_tensor->stride;
        float* row = to_plane + static_cast<int64_t>(y) * t.stride;
        if (y % fy) {
          std::memcpy(row, row - t.stride, t.stride * sizeof(float));
          continue;
        }
        kernels.repeat_row(x, in_tensor->width, fx, row);
        std::fill(row + t.width, row + t.stride, 0.0f);
      }
      zero_tail(t, to_plane);
    }
  };
  in_parallel(threads, part);
}

void Work::join() const {
  const int32_t at = op.p[0];
  const bool fill = op.p[1];
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c) {
      const float* plane = in + static_cast<int64_t>(c) * in_tensor->plane;
      float* to_plane = out + static_cast<int64_t>(c) * t.plane;
      for (int y = 0; y < in_tensor->height; ++y)
        std::memcpy(to_plane + at + static_cast<int64_t>(y) * in_tensor->width, plane + static_cast<int64_t>(y) * in_tensor->stride,
                    in_tensor->width * sizeof(float));
      if (!fill) continue;
      std::fill(to_plane + t.width, to_plane + t.stride, 0.0f);
      zero_tail(t, to_plane);
    }
  };
  in_parallel(threads, part);
}

void Work::constant() const {
  const auto* numbers = reinterpret_cast<const float*>(image + op.at[2]);
  for (int c = 0; c < t.channels; ++c) {
    float* plane = out + static_cast<int64_t>(c) * t.plane;
    fill_plane(numbers + static_cast<int64_t>(c) * t.height * t.width, t.width, t.height, t.width, t, plane, 0, t.height);
    zero_tail(t, plane);
  }
}

void Work::give() const {
  const int64_t area = static_cast<int64_t>(t.height) * t.width;
  auto part = [&](int i, int n) {
    auto [first, last] = share(t.channels, i, n);
    for (int c = first; c < last; ++c)
      for (int y = 0; y < t.height; ++y) {
        const float* row = in + static_cast<int64_t>(c) * t.plane + static_cast<int64_t>(y) * t.stride;
        if (op.flags & kRows)
          for (int x = 0; x < t.width; ++x) out[(static_cast<int64_t>(y) * t.width + x) * t.channels + c] = row[x];
        else
          std::memcpy(out + c * area + static_cast<int64_t>(y) * t.width, row, t.width * sizeof(float));
      }
  };
  in_parallel(area * t.channels > 65536 ? threads : 1, part);
}

}  // namespace podar
