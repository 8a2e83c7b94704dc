// The engine alone, against a plain loop: random convolutions on every level, over memory that ends at guard pages.
// `make sanitize` runs it under the address and undefined-behaviour sanitizers, `make test-aarch64` under qemu.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine.h"
#include "format.h"
#include "podar_native.h"
#include "threads.h"

using namespace podar;

namespace {

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Case {
  int channels, out_channels, size_y, size_x, kernel, rows, input_block, tile, act;
  float density;
  bool residual;
};

// The file image of input → convolution (pad kernel/2) → output, built as podar_native/program.py does.
std::vector<uint8_t> program(const Case& c, const std::vector<float>& weight, const std::vector<float>& bias) {
  const int pad = c.kernel / 2, stride = c.size_x + pad;
  const int lead = static_cast<int>(up(pad * stride + pad, 16));
  const int plane = lead + static_cast<int>(up(static_cast<int64_t>(c.size_y) * stride, 16));
  const int blocks = (c.out_channels + c.rows - 1) / c.rows;
  const int step = c.input_block ? c.input_block : c.channels, input_blocks = (c.channels + step - 1) / step;
  std::vector<int32_t> starts, entries;
  int count = 0;
  std::vector<float> biases(static_cast<size_t>(blocks) * c.rows);
  std::copy(bias.begin(), bias.end(), biases.begin());
  for (int ib = 0; ib < input_blocks; ++ib) {
    for (int b = 0; b < blocks; ++b) {
      starts.push_back(count);
      for (int i = ib * step; i < std::min(c.channels, (ib + 1) * step); ++i)
        for (int ky = 0; ky < c.kernel; ++ky)
          for (int kx = 0; kx < c.kernel; ++kx) {
            std::vector<float> column;
            for (int r = 0; r < c.rows; ++r) {
              const int o = b * c.rows + r;
              column.push_back(o < c.out_channels ? weight[((static_cast<size_t>(o) * c.channels + i) * c.kernel + ky) * c.kernel + kx] : 0);
            }
            if (std::all_of(column.begin(), column.end(), [](float w) { return w == 0; })) continue;
            for (const float w : column) {
              entries.emplace_back();
              std::memcpy(&entries.back(), &w, sizeof w);
            }
            entries.push_back(i * plane + (ky - pad) * stride + kx - pad);
            ++count;
          }
    }
    starts.push_back(count);
  }
  Header header{};
  std::memcpy(header.magic, kMagic, 8);
  header.format = PODAR_FORMAT;
  header.tensors = 2;
  header.ops = 3;
  header.inputs = header.outputs = 1;
  const int64_t in_floats = static_cast<int64_t>(c.channels) * plane, out_floats = static_cast<int64_t>(c.out_channels) * plane;
  std::vector<Tensor> tensors(2);
  tensors[0] = {lead, c.channels, c.size_y, c.size_x, stride, plane, lead};
  tensors[1] = {lead + in_floats, c.out_channels, c.size_y, c.size_x, stride, plane, lead};
  header.arena_floats = static_cast<uint64_t>(lead + in_floats + out_floats + lead + 16);  // and not one float more
  std::vector<Op> ops(3);
  for (Op& op : ops) op.in = op.in2 = op.out = -1;
  ops[0].kind = kInput;
  ops[0].out = 0;
  ops[0].p[0] = ops[0].p[1] = ops[0].p[2] = ops[0].p[4] = 1;
  ops[0].p[5] = c.channels;
  ops[0].p[6] = c.size_y;
  ops[0].p[7] = c.size_x;
  ops[1].kind = kConv;
  ops[1].flags = kMasked;
  ops[1].in = 0;
  ops[1].in2 = c.residual ? 0 : -1;
  ops[1].out = 1;
  ops[1].act = c.act;
  const int32_t p[] = {c.rows, blocks, input_blocks, c.tile, count, pad * stride + pad};
  std::copy(std::begin(p), std::end(p), ops[1].p);
  ops[2].kind = kOutput;
  ops[2].in = 1;
  std::vector<uint8_t> image(sizeof(Header));
  auto append = [&](const void* data, size_t bytes) {
    image.resize(up(static_cast<int64_t>(image.size()), 64));
    const size_t at = image.size();
    image.resize(at + bytes);
    if (bytes) std::memcpy(image.data() + at, data, bytes);
    return at;
  };
  header.tensor_table = append(tensors.data(), tensors.size() * sizeof(Tensor));
  ops[1].at[0] = static_cast<int64_t>(append(starts.data(), starts.size() * 4));
  ops[1].at[1] = static_cast<int64_t>(append(entries.data(), entries.size() * 4));
  ops[1].at[3] = static_cast<int64_t>(append(biases.data(), biases.size() * 4));
  header.op_table = append(ops.data(), ops.size() * sizeof(Op));
  header.bytes = image.size();
  std::memcpy(image.data(), &header, sizeof header);
  return image;
}

struct Aligned {
  explicit Aligned(const std::vector<uint8_t>& bytes) : room(bytes.size() + 64) {
    begin = reinterpret_cast<uint8_t*>(up(reinterpret_cast<intptr_t>(room.data()), 64));
    std::copy(bytes.begin(), bytes.end(), begin);
  }
  std::vector<uint8_t> room;
  uint8_t* begin;
};

int run_case(const Case& c, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  auto numbers = [&](size_t n) {
    std::vector<float> v(n);
    for (float& x : v) x = normal(random);
    return v;
  };
  auto weight = numbers(static_cast<size_t>(c.out_channels) * c.channels * c.kernel * c.kernel);
  for (float& w : weight)
    if (uniform(random) >= c.density) w = 0;
  const auto bias = numbers(c.out_channels);
  const int batch = 2, area = c.size_y * c.size_x, pad = c.kernel / 2;
  const auto image = numbers(static_cast<size_t>(batch) * c.channels * area);
  std::vector<double> expected(static_cast<size_t>(batch) * c.out_channels * area);
  double largest = 1;
  for (int n = 0; n < batch; ++n)
    for (int o = 0; o < c.out_channels; ++o)
      for (int y = 0; y < c.size_y; ++y)
        for (int x = 0; x < c.size_x; ++x) {
          double sum = bias[o];
          for (int i = 0; i < c.channels; ++i)
            for (int ky = 0; ky < c.kernel; ++ky)
              for (int kx = 0; kx < c.kernel; ++kx) {
                const int iy = y + ky - pad, ix = x + kx - pad;
                if (iy < 0 || ix < 0 || iy >= c.size_y || ix >= c.size_x) continue;
                sum += static_cast<double>(weight[((static_cast<size_t>(o) * c.channels + i) * c.kernel + ky) * c.kernel + kx]) *
                       image[(static_cast<size_t>(n) * c.channels + i) * area + iy * c.size_x + ix];
              }
          if (c.residual) sum += image[(static_cast<size_t>(n) * c.channels + o) * area + y * c.size_x + x];
          if (c.act == kRelu) sum = std::max(sum, 0.0);
          if (c.act == kSilu) sum = sum / (1 + std::exp(-sum));
          expected[(static_cast<size_t>(n) * c.out_channels + o) * area + y * c.size_x + x] = sum;
          largest = std::max(largest, std::fabs(sum));
        }
  const auto bytes = program(c, weight, bias);
  const Aligned file(bytes);
  int failures = 0;
  for (const Level* level : levels()) {
    podar_engine* engine = nullptr;
    if (podar_open(file.begin, bytes.size(), level->name, &engine)) {
      std::printf("%s: %s\n", level->name, podar_error());
      return 1;
    }
    std::vector<float> out(expected.size(), NAN);
    const float* in = image.data();
    float* to = out.data();
    podar_run(engine, &in, &to, batch, 1 + static_cast<int>(random() % 3), nullptr);
    podar_close(engine);
    double worst = 0;
    for (size_t i = 0; i < out.size(); ++i) worst = std::max(worst, out[i] == out[i] ? std::fabs(out[i] - expected[i]) : 1e9);
    if (worst > 1e-5 * largest) {
      std::printf("%s: off by %g: %d→%d, %d×%d, kernel %d, rows %d, inputs %d, tile %d\n", level->name, worst, c.channels,
                  c.out_channels, c.size_y, c.size_x, c.kernel, c.rows, c.input_block, c.tile);
      ++failures;
    }
  }
  return failures;
}

// A file that may be damaged is refused, or runs inside its own memory.
void run_any(const std::vector<uint8_t>& bytes) {
  const Aligned file(bytes);
  podar_engine* engine = nullptr;
  if (podar_open(file.begin, bytes.size(), nullptr, &engine)) return;
  if (podar_arena_bytes(engine) < (1 << 26) && podar_inputs(engine) == 1 && podar_outputs(engine) == 1 &&
      podar_input_floats(engine, 0) <= (1 << 20) && podar_output_floats(engine, 0) <= (1 << 20)) {
    std::vector<float> in(podar_input_floats(engine, 0), 1.0f), out(podar_output_floats(engine, 0));
    const float* from = in.data();
    float* to = out.data();
    podar_run(engine, &from, &to, 1, 1, nullptr);
  }
  podar_close(engine);
}

// Any bytes wrong, and any flags on any operator.
void run_damaged(std::mt19937& random) {
  const Case c{3, 4, 6, 7, 3, 1, 0, 2, kRelu, 0.5f, false};
  std::vector<float> weight(4 * 3 * 9, 0.5f), bias(4, 0.1f);
  const auto bytes = program(c, weight, bias);
  for (int k = 0; k < 3000; ++k) {
    auto broken = bytes;
    for (int n = 0; n <= k % 3; ++n) broken[8 + random() % (broken.size() - 8)] = static_cast<uint8_t>(random());
    run_any(broken);
  }
  Header header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (uint32_t op = 0; op < header.ops; ++op)
    for (int flags = 0; flags < 256; ++flags) {
      auto broken = bytes;
      broken[header.op_table + op * sizeof(Op) + offsetof(Op, flags)] = static_cast<uint8_t>(flags);
      run_any(broken);
    }
}

}  // namespace

// More threads than any system gives: fewer do the work, and the next job still ends.
int run_threads() {
  int failures = 0;
  for (int n : {3, 1000000, 2}) {
    std::atomic<long> sum{0};
    auto part = [&](int i, int parts) {
      for (long k = 1000L * i / parts; k < 1000L * (i + 1) / parts; ++k) sum += k;
    };
    podar::in_parallel(n, part);
    failures += sum != 499500;
  }
  return failures;
}

// What a part throws reaches the caller, when all other parts have ended, and the pool works on.
int run_exceptions() {
  int failures = 0;
  for (int thrower : {0, 1, 2, 7}) {
    std::atomic<int> ended{0};
    auto part = [&](int i, int) {
      if (i == thrower || (thrower == 7 && i > 0)) throw Refused("part " + std::to_string(i));
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ++ended;
    };
    try {
      podar::in_parallel(3, part);
      failures += thrower < 3;
    } catch (const Refused&) {
      failures += ended != (thrower == 7 ? 1 : 2);
    }
  }
  return failures + run_threads();
}

// A child that is forked while another thread runs an engine can run the same engine.
int run_forks() {
  std::mt19937 random(3);
  const Case c{16, 16, 8, 24, 3, 4, 0, 0, kRelu, 0.3f, false};
  std::vector<float> weight(16 * 16 * 9), bias(16, 0.1f), in(16 * 8 * 24, 0.5f);
  for (float& v : weight) v = random() % 3 ? 0.0f : 0.25f;
  const std::vector<uint8_t> image = program(c, weight, bias);
  void* aligned = nullptr;
  if (posix_memalign(&aligned, 64, image.size()) != 0) return 1;
  std::memcpy(aligned, image.data(), image.size());
  podar_engine* engine = nullptr;
  if (podar_open(aligned, image.size(), nullptr, &engine)) return 1;
  auto run = [&](std::vector<float>& out) {
    const float* inputs[] = {in.data()};
    float* outputs[] = {out.data()};
    return podar_run(engine, inputs, outputs, 1, 2, nullptr);
  };
  std::vector<float> expected(16 * 8 * 24);
  int failures = run(expected);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    std::vector<float> out(expected.size());
    while (!stop) run(out);
  });
  for (int k = 0; k < 40; ++k) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // a child that hangs ends by it
      std::vector<float> out(expected.size());
      _exit(run(out) || out != expected);
    }
    int status = 1;
    failures += child < 0 || waitpid(child, &status, 0) != child || status != 0;
  }
  stop = true;
  busy.join();
  podar_close(engine);
  std::free(aligned);
  return failures;
}

// Columns in their order, on every level: `rows` times out of as many rows of `columns`.
int run_pack(std::mt19937& random, int64_t rows, int64_t columns) {
  std::vector<uint32_t> from(static_cast<size_t>(rows * columns));
  for (uint32_t& v : from) v = static_cast<uint32_t>(random());
  std::vector<int64_t> of(static_cast<size_t>(rows)), chosen;
  for (int64_t& r : of) r = static_cast<int64_t>(random() % rows);
  const unsigned every = 1 + random() % 5;
  for (int64_t c = 0; c < columns; ++c)
    if (random() % every == 0) chosen.push_back(c);
  const int64_t picked = static_cast<int64_t>(chosen.size());
  std::vector<uint32_t> expected;
  for (int64_t r : of)
    for (int64_t c : chosen) expected.push_back(from[r * columns + c]);
  int failures = 0;
  for (const Level* level : levels()) {
    std::vector<uint32_t> out(expected.size());
    pack(*level, {from.data(), columns, of.data(), rows, chosen.data(), picked, nullptr, nullptr, out.data()});
    failures += out != expected;
  }
  std::vector<uint32_t> out(expected.size());
  podar_take(from.data(), columns, 4, of.data(), rows, chosen.data(), picked, out.data());
  return failures + (out != expected);
}

// Sums of squares on every level and chosen rows and columns, in memory of exactly the size that is needed.
int run_weights(std::mt19937& random) {
  int failures = 0;
  std::normal_distribution<float> normal;
  for (int k = 0; k < 60; ++k) {
    const int64_t rows = 1 + random() % 300, width = 1 + random() % (k % 10 ? 80 : 2200);
    std::vector<float> x(static_cast<size_t>(rows * width));
    for (float& v : x) v = normal(random);
    std::vector<double> of_rows(static_cast<size_t>(rows)), of_columns(static_cast<size_t>(width));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) {
        const double square = static_cast<double>(x[r * width + i]) * x[r * width + i];
        of_rows[r] += square;
        of_columns[i] += square;
      }
    auto differs = [](const std::vector<float>& a, const std::vector<double>& b) {
      for (size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(a[i] - b[i]) <= 1e-5 * b[i])) return 1;
      return 0;
    };
    for (const Level* level : levels()) {
      std::vector<float> found_rows(of_rows.size()), found_columns(of_columns.size());
      level->square_sums(x.data(), rows, width, found_rows.data(), found_columns.data());
      failures += differs(found_rows, of_rows) | differs(found_columns, of_columns);
    }
    std::vector<float> found_rows(of_rows.size()), found_columns(of_columns.size(), 7);
    podar_square_sums(x.data(), 1, rows, width, found_rows.data(), found_columns.data());
    failures += differs(found_rows, of_rows) | differs(found_columns, of_columns);

    const int64_t bytes[] = {1, 2, 4, 8, 12, 36, 100, 196};
    const int64_t item = bytes[random() % 8], columns = 1 + random() % 40, chosen = random() % 40, picked = random() % 20;
    std::vector<uint8_t> from(static_cast<size_t>(rows * columns * item)), out(static_cast<size_t>(picked * chosen * item));
    for (uint8_t& v : from) v = static_cast<uint8_t>(random());
    std::vector<int64_t> of(static_cast<size_t>(picked)), places(static_cast<size_t>(chosen));
    for (int64_t& r : of) r = static_cast<int64_t>(random() % rows);
    for (int64_t& c : places) c = static_cast<int64_t>(random() % columns);
    podar_take(from.data(), columns, item, of.data(), picked, places.data(), chosen, out.data());
    for (int64_t i = 0; i < picked; ++i)
      for (int64_t j = 0; j < chosen; ++j)
        failures += std::memcmp(&out[(i * chosen + j) * item], &from[(of[i] * columns + places[j]) * item], item) != 0;
    failures += run_pack(random, rows, width);
  }
  return failures;
}

int main(int count, char** arguments) {
  const int cases = count > 1 ? std::atoi(arguments[1]) : 1500;
  std::mt19937 random(7);
  auto pick = [&](std::initializer_list<int> from) { return from.begin()[random() % from.size()]; };
  int failures = 0;
  for (int k = 0; k < cases; ++k) {
    Case c;
    c.channels = 1 + static_cast<int>(random() % 20);
    c.residual = random() % 4 == 0;
    c.out_channels = c.residual ? c.channels : 1 + static_cast<int>(random() % 20);
    c.size_y = 1 + static_cast<int>(random() % 12);
    c.size_x = 1 + static_cast<int>(random() % 40);
    c.kernel = pick({1, 1, 3, 5});
    c.rows = pick({1, 4, 8});
    c.input_block = pick({0, 2, 7});
    c.tile = pick({0, 1, 2, 3, 5, 8, 16});
    c.act = pick({kNone, kRelu, kSilu});
    c.density = static_cast<float>(pick({0, 5, 20, 100})) / 100;
    failures += run_case(c, random);
  }
  run_damaged(random);
  failures += run_threads();
  failures += run_exceptions();
  failures += run_forks();
  failures += run_weights(random);
  std::printf("%d cases on %s: %d failures\n", cases, podar_levels(), failures);
  return failures ? 1 : 0;
}
