// The plain C interface, over the C++ engine.
#include "podar_native.h"

#include <new>
#include <string>

#include "engine.h"

struct podar_engine : podar::Engine {
  using podar::Engine::Engine;
};

namespace {

thread_local std::string said;

template <class F>
int guarded(F f) {
  try {
    f();
    return 0;
  } catch (const std::bad_alloc&) {
    said = "there is not enough memory";
  } catch (const std::exception& error) {
    said = error.what();
  }
  return 1;
}

}  // namespace

extern "C" {

const char* podar_error(void) { return said.c_str(); }

const char* podar_levels(void) {
  static const std::string names = [] {
    std::string all;
    for (const podar::Level* level : podar::levels()) all += all.empty() ? level->name : std::string(" ") + level->name;
    return all;
  }();
  return names.c_str();
}

int podar_open(const void* image, size_t bytes, const char* level, podar_engine** out) {
  return guarded([&] { *out = new podar_engine(image, bytes, level); });
}

void podar_close(podar_engine* engine) { delete engine; }
int podar_inputs(const podar_engine* engine) { return static_cast<int>(engine->inputs.size()); }
int podar_outputs(const podar_engine* engine) { return static_cast<int>(engine->outputs.size()); }
int64_t podar_input_floats(const podar_engine* engine, int i) { return engine->floats(engine->ops[engine->inputs[i]]); }
int64_t podar_output_floats(const podar_engine* engine, int i) { return engine->floats(engine->ops[engine->outputs[i]]); }
int64_t podar_arena_bytes(const podar_engine* engine) { return static_cast<int64_t>(engine->header.arena_floats) * 4; }
const char* podar_level(const podar_engine* engine) { return engine->level->name; }
int podar_ops(const podar_engine* engine) { return static_cast<int>(engine->ops.size()); }

int podar_run(podar_engine* engine, const float* const* inputs, float* const* outputs, int64_t batch, int threads,
              int64_t* nanoseconds) {
  return guarded([&] {
    if (batch < 0 || threads < 1) throw podar::Refused("the batch or the number of threads is below one");
    engine->run(inputs, outputs, batch, threads, nanoseconds);
  });
}
}
