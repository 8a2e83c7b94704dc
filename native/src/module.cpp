// The Python binding: one class over the C interface. Arrays are passed as numpy's, checked here once more.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "podar_native.h"

namespace nb = nanobind;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Times = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

class Engine {
 public:
  Engine(Bytes image, const std::optional<std::string>& level) : image_(image) {
    if (podar_open(image.data(), image.size(), level ? level->c_str() : nullptr, &engine_)) throw nb::value_error(podar_error());
  }
  ~Engine() { podar_close(engine_); }
  Engine(const Engine&) = delete;

  void run(const std::vector<ReadFloats>& inputs, const std::vector<Floats>& outputs, int64_t batch, int threads,
           std::optional<Times> times) {
    if (static_cast<int>(inputs.size()) != podar_inputs(engine_) || static_cast<int>(outputs.size()) != podar_outputs(engine_))
      throw nb::value_error("the number of inputs or outputs is not the program's");
    std::vector<const float*> in;
    std::vector<float*> out;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (static_cast<int64_t>(inputs[i].size()) != batch * podar_input_floats(engine_, static_cast<int>(i)))
        throw nb::value_error("an input has another size than the program's");
      in.push_back(inputs[i].data());
    }
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (static_cast<int64_t>(outputs[i].size()) != batch * podar_output_floats(engine_, static_cast<int>(i)))
        throw nb::value_error("an output has another size than the program's");
      out.push_back(outputs[i].data());
    }
    if (times && static_cast<int>(times->size()) != podar_ops(engine_)) throw nb::value_error("times has another size than the operators");
    int failed;
    {
      nb::gil_scoped_release release;
      failed = podar_run(engine_, in.data(), out.data(), batch, threads, times ? times->data() : nullptr);
    }
    if (failed) throw nb::value_error(podar_error());
  }

  std::vector<int64_t> input_floats() const {
    std::vector<int64_t> floats;
    for (int i = 0; i < podar_inputs(engine_); ++i) floats.push_back(podar_input_floats(engine_, i));
    return floats;
  }
  std::vector<int64_t> output_floats() const {
    std::vector<int64_t> floats;
    for (int i = 0; i < podar_outputs(engine_); ++i) floats.push_back(podar_output_floats(engine_, i));
    return floats;
  }

  const char* level() const { return podar_level(engine_); }
  int64_t arena_bytes() const { return podar_arena_bytes(engine_); }
  int ops() const { return podar_ops(engine_); }

 private:
  Bytes image_;  // keeps the file's memory alive
  podar_engine* engine_ = nullptr;
};

}  // namespace

NB_MODULE(_engine, m) {
  nb::set_leak_warnings(false);  // programs that are open when Python ends
  m.attr("FORMAT") = PODAR_FORMAT;
  m.def("levels", &podar_levels, "The vector levels that this processor runs, best first.");
  nb::class_<Engine>(m, "Engine")
      .def(nb::init<Bytes, const std::optional<std::string>&>(), nb::arg("image"), nb::arg("level").none() = nb::none())
      .def("run", &Engine::run, nb::arg("inputs"), nb::arg("outputs"), nb::arg("batch"), nb::arg("threads"),
           nb::arg("times").none() = nb::none())
      .def_prop_ro("input_floats", &Engine::input_floats)
      .def_prop_ro("output_floats", &Engine::output_floats)
      .def_prop_ro("level", &Engine::level)
      .def_prop_ro("arena_bytes", &Engine::arena_bytes)
      .def_prop_ro("ops", &Engine::ops);
}
