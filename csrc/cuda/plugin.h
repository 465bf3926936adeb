/* What libgradwire_cuda.so exports: one function, gradwire_cuda_table, which fills this table. Plain C, so that library and
 * plug-in may come from different compilers. Append only; a change of anything that is there raises GW_CUDA_VERSION.
 *
 * Functions return 0, or a code that error_text explains. They neither wait for the device nor print, except synchronize.
 * Pointers named so are device memory, of any alignment; `stream` is a cudaStream_t of `device`, 0 its default stream. */
#ifndef GRADWIRE_CUDA_PLUGIN_H
#define GRADWIRE_CUDA_PLUGIN_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GW_CUDA_VERSION 1u
#define GW_CUDA_SYMBOL "gradwire_cuda_table"

/* Codes of the plug-in's own, beside those of CUDA, which are positive. */
enum { GW_CUDA_NO_KERNEL = -1 /* the codec has no kernels */ };

/* How residuals lie in memory: fp32, or coded as by the codecs bf16 and int8(block=64). */
enum { GW_RESIDUAL_NONE = 0, GW_RESIDUAL_FP32 = 1, GW_RESIDUAL_BF16 = 2, GW_RESIDUAL_INT8 = 3 };

typedef struct gw_cuda_codec { /* CodecShape and wire id */
  uint32_t id, block, k, values, seed;
} gw_cuda_codec;

typedef struct gw_cuda_piece { /* Piece, and where it runs */
  uint64_t count, first, step;
  uint32_t stream_id;
  int32_t device;
  void* stream;
} gw_cuda_piece;

typedef struct gw_cuda_array { /* dtype: DType of float32, bfloat16 or float16 */
  void* data;
  uint32_t dtype;
} gw_cuda_array;

typedef struct gw_cuda_residual { /* owed: added to the values; loss: written. Each may be null, or both the same */
  const void* owed;
  void* loss;
  uint32_t kind;
} gw_cuda_residual;

/* Between an array and fp32, as load, load_add and store of codec/kernels.hpp.
 * load:  values = array + residual, with add: values += (array + residual); residual may be null.
 * store: array = values * scale, rounded; if residual is not null it becomes values - array, what was rounded off. */
typedef struct gw_cuda_elements {
  gw_cuda_array array;
  float* residual;
  float* values;
  uint64_t count;
  float scale;
  int32_t add, device;
  void* stream;
} gw_cuda_elements;

/* The k largest magnitudes of x, in index order. scratch: topk_bytes(count, k) bytes, aligned to 16. count below 2^31. */
typedef struct gw_cuda_topk {
  gw_cuda_array x;
  uint64_t count, k;
  float* values;
  int64_t* indices;
  void* scratch;
  int32_t device;
  void* stream;
} gw_cuda_topk;

typedef struct gw_cuda_table {
  uint32_t version, size; /* of the table that was filled */
  const char* (*error_text)(int error);
  int (*device_count)(int* count);
  int (*driver_version)(int* version);
  int (*describe)(int device, char* text, uint32_t size); /* name and compute capability */
  int (*device_of)(const void* p, int* device);           /* -1: not device memory */
  int (*allocate)(int device, uint64_t bytes, void** p);
  int (*release)(int device, void* p);
  int (*copy)(int device, void* to, const void* from, uint64_t bytes, void* stream); /* any direction */
  int (*stream_create)(int device, void** stream);
  int (*stream_destroy)(int device, void* stream);
  int (*synchronize)(int device, void* stream);
  int (*encode)(const gw_cuda_codec* codec, const gw_cuda_piece* piece, gw_cuda_array x, gw_cuda_residual residual,
                void* payload);
  /* add: out += values. Malformed bytes give arbitrary values inside `out`. */
  int (*decode)(const gw_cuda_codec* codec, const gw_cuda_piece* piece, const void* payload, gw_cuda_array out, int add);
  /* host memory that the device copies from and to by itself */
  int (*pin)(int device, uint64_t bytes, void** p);
  int (*unpin)(void* p);
  /* events order streams, and say without waiting whether a stream has come so far; one never recorded counts as done */
  int (*event_create)(int device, void** event);
  int (*event_destroy)(int device, void* event);
  int (*event_record)(int device, void* event, void* stream);
  int (*event_done)(int device, void* event, int* done);
  int (*stream_wait)(int device, void* stream, void* event);
  int (*clear)(int device, void* p, uint64_t bytes, void* stream); /* zeros */
  int (*load)(const gw_cuda_elements* e);
  int (*store)(const gw_cuda_elements* e);
  uint64_t (*topk_bytes)(uint64_t count, uint64_t k);
  int (*topk)(const gw_cuda_topk* t);
} gw_cuda_table;

/* 0; or 1 if `version` is not the plug-in's or `size` is larger than its table. */
typedef int (*gw_cuda_table_function)(uint32_t version, uint32_t size, gw_cuda_table* out);

#ifdef __cplusplus
}
#endif
#endif
