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

using Indices = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Read = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Write = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Matrices = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

void square_sums(const Matrices& values, const Floats& of_rows, const Floats& of_columns) {
  const int64_t groups = values.shape(0), rows = values.shape(1), width = values.shape(2);
  if (static_cast<int64_t>(of_rows.size()) != groups * rows || static_cast<int64_t>(of_columns.size()) != groups * width)
    throw nb::value_error("the sums have another size than the rows or columns");
  nb::gil_scoped_release release;
  podar_square_sums(values.data(), groups, rows, width, of_rows.data(), of_columns.data());
}

void check_indices(const Indices& indices, int64_t size) {
  for (size_t i = 0; i < indices.size(); ++i)
    if (indices.data()[i] < 0 || indices.data()[i] >= size) throw nb::index_error("an index lies outside");
}

void take(const Read& values, const Indices& rows, const Indices& columns, const Write& out) {
  if (values.ndim() < 2 || values.dtype() != out.dtype()) throw nb::value_error("values are no matrix of the type of out");
  const int64_t all_rows = values.shape(0), all_columns = values.shape(1);
  check_indices(rows, all_rows);
  check_indices(columns, all_columns);
  int64_t bytes = (values.dtype().bits + 7) / 8;
  for (size_t d = 2; d < values.ndim(); ++d) bytes *= static_cast<int64_t>(values.shape(d));
  if (static_cast<int64_t>(out.nbytes()) != static_cast<int64_t>(rows.size() * columns.size()) * bytes)
    throw nb::value_error("out has another size than what is taken");
  nb::gil_scoped_release release;
  podar_take(values.data(), all_columns, bytes, rows.data(), static_cast<int64_t>(rows.size()), columns.data(),
             static_cast<int64_t>(columns.size()), out.data());
}

}  // namespace

NB_MODULE(_engine, m) {
  nb::set_leak_warnings(false);  // programs that are open when Python ends
  m.attr("FORMAT") = PODAR_FORMAT;
  m.def("levels", &podar_levels, "The vector levels that this processor runs, best first.");
  // A copy of what does not fit would be read, or written to, in silence.
  m.def("square_sums", &square_sums, nb::arg("values").noconvert(), nb::arg("of_rows").noconvert(),
        nb::arg("of_columns").noconvert());
  m.def("take", &take, nb::arg("values").noconvert(), nb::arg("rows").noconvert(), nb::arg("columns").noconvert(),
        nb::arg("out").noconvert());
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
