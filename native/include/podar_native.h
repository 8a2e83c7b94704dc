/* The plain C interface of the sparse engine: open a prepared program, run it on float arrays, close it.
 *
 * A program is the image of a file (docs/sparse_engine.md has the format). Every function that can fail returns
 * non-zero and leaves one sentence in podar_error(), which belongs to the calling thread. */
#ifndef PODAR_NATIVE_H
#define PODAR_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PODAR_FORMAT 3

typedef struct podar_engine podar_engine;

/* What went wrong in this thread's last failing call. */
const char* podar_error(void);

/* The vector levels that this processor runs, best first, as "avx512 avx2 sse2 scalar". */
const char* podar_levels(void);

/* Open the program in image[0..bytes), which must stay where it is (and be aligned to 64) until podar_close.
 * level: NULL for the best, or one of podar_levels(). */
int podar_open(const void* image, size_t bytes, const char* level, podar_engine** out);
void podar_close(podar_engine* engine);

/* Numbers of inputs and outputs, and how many floats each has (channels × height × width). */
int podar_inputs(const podar_engine* engine);
int podar_outputs(const podar_engine* engine);
int64_t podar_input_floats(const podar_engine* engine, int index);
int64_t podar_output_floats(const podar_engine* engine, int index);
int64_t podar_arena_bytes(const podar_engine* engine);
const char* podar_level(const podar_engine* engine);
int podar_ops(const podar_engine* engine);

/* Run `batch` images one after the other. inputs[i] and outputs[i] hold batch × floats numbers, contiguous.
 * threads: from 1 up. nanoseconds: NULL, or podar_ops() numbers that each operator's time is added to. */
int podar_run(podar_engine* engine, const float* const* inputs, float* const* outputs, int64_t batch, int threads,
              int64_t* nanoseconds);

/* For groups matrices of rows × width, one after the other: sums of squares of every row (groups × rows numbers) and of
 * every column (groups × width). */
void podar_square_sums(const float* values, int64_t groups, int64_t rows, int64_t width, float* of_rows, float* of_columns);

/* out[i, j] = values[rows[i], chosen[j]], items of `bytes` from a matrix of `columns` of them. Indices are not checked. */
void podar_take(const void* values, int64_t columns, int64_t bytes, const int64_t* rows, int64_t n_rows, const int64_t* chosen,
                int64_t n_chosen, void* out);

#ifdef __cplusplus
}
#endif
#endif
