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

#define GW_CUDA_VERSION 2u
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

typedef struct
    gw_cuda_residual { /* owed: added to the values; loss: written. Each may be null, or both the same */
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

/* Single elements of an array, by places in it; a place outside is passed over. Scattering wants each place once. */
typedef struct gw_cuda_places {
  gw_cuda_array x;
  uint64_t count; /* of x */
  const int64_t* places;
  float* values;
  uint64_t places_count;
  int32_t device;
  void* stream;
} gw_cuda_places;

/* ---- ranks that read one another's memory (comm/peer_program.hpp makes the units) */
enum { GW_MOST_PEERS = 16, GW_PEER_HEAD = 32 /* words in front of the first row of signals: the faults */ };
#define GW_NO_PLACE (~0ull)
enum { GW_UNIT_SIGNAL = 0, GW_UNIT_SEND = 1, GW_UNIT_RECV = 2, GW_UNIT_REDUCE = 3 };
enum { GW_UNIT_ENCODE = 1, GW_UNIT_KEEP = 2, GW_UNIT_COMPLETE = 4, GW_UNIT_FROM_INPUT = 8 };

typedef struct
    gw_cuda_place {      /* a message: of a source, where its value lies; of a target, where to signal */
  uint64_t slot;         /* of a source: bytes into its frames, or GW_NO_PLACE: in its array */
  uint32_t rank, signal; /* signal: word in the receiver's row */
} gw_cuda_place;

typedef struct gw_cuda_unit { /* what a block does with a piece of the array; it waits, works, then signals */
  uint64_t at;                /* first element */
  uint64_t slot,
      own; /* bytes into its rank's frames, or GW_NO_PLACE: where it writes a frame; its own share's */
  uint32_t count, first_source, first_target;
  uint16_t sources, targets, step;
  uint8_t kind, flags;
} gw_cuda_unit;

typedef struct gw_cuda_exchange {
  const gw_cuda_unit* units;
  const gw_cuda_place* places;
  const uint32_t*
      begins; /* [ranks * blocks + 1]: the units of rank r's block b are from begins[r * blocks + b] on */
  void* array[GW_MOST_PEERS];
  float* residual[GW_MOST_PEERS]; /* error feedback, or null */
  uint8_t* frames[GW_MOST_PEERS];
  /* zeros at first: GW_PEER_HEAD words, then a row of `stride` words a block. Word 0 of a row counts exchanges, words 1
   * to `ranks` are the ranks' last signals, the others the messages'. */
  uint32_t* signals[GW_MOST_PEERS];
  gw_cuda_codec codec;     /* id: GW_NO_CODEC for none */
  uint64_t step, limit_ns; /* step: of random numbers; limit_ns: how long a block waits for one signal */
  uint32_t stride, blocks, ranks, first_rank,
      launched;       /* launched: ranks first_rank to first_rank + launched - 1 */
  uint32_t dtype, op; /* op: ReduceOp of sum, min, max or prod */
  float scale;        /* of complete values */
  uint32_t lossy;
  int32_t device;
  void* stream;
  const uint32_t* stop; /* null, or pinned host memory: not 0 ends every wait as if its limit had passed */
} gw_cuda_exchange;
#define GW_NO_CODEC (~0u)

typedef struct gw_cuda_handle { /* of memory, good in any process of the host */
  uint8_t bytes[64];
} gw_cuda_handle;

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
  int (*encode)(const gw_cuda_codec* codec, const gw_cuda_piece* piece, gw_cuda_array x,
                gw_cuda_residual residual, void* payload);
  /* add: out += values. Malformed bytes give arbitrary values inside `out`. */
  int (*decode)(const gw_cuda_codec* codec, const gw_cuda_piece* piece, const void* payload,
                gw_cuda_array out, int add);
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
  /* Runs the units of `launched` ranks in one launch that refuses if its blocks cannot all run at once. A wait past its limit
   * ends the block. Word 0 of its rank's signals then has the peer's bit, word 1 + peer the step + 1 (0xffff: the end); the
   * signals of all ranks must be cleared before the next exchange. */
  int (*exchange)(const gw_cuda_exchange* e);
  int (*most_blocks)(const gw_cuda_exchange* e,
                     int* blocks);       /* that run at once on the device, of all ranks */
  int (*synchronize_device)(int device); /* waits for all of its streams */
  /* what is put on the stream in between is recorded instead of done; `stream` is none of the default ones */
  int (*graph_begin)(int device, void* stream);
  int (*graph_end)(int device, void* stream, void** graph);
  int (*graph_launch)(int device, void* graph, void* stream);
  int (*graph_destroy)(int device, void* graph);
  /* memory that `allocate` gave, for other processes of this host, and theirs for this one */
  int (*share)(int device, void* p, gw_cuda_handle* handle);
  int (*open_shared)(int device, const gw_cuda_handle* handle, void** p);
  int (*close_shared)(int device, void* p);
  int (*gather)(const gw_cuda_places* p);           /* values[i] = x[places[i]] */
  int (*scatter)(const gw_cuda_places* p, int add); /* the reverse; add: x[places[i]] += values[i] */
  /* The magnitudes of x that are at least `threshold`, above 0, in index order, of which the first k are written; how many
   * there are is written to found, device memory. scratch as for topk. */
  int (*at_least)(const gw_cuda_topk* t, float threshold, uint32_t* found);
} gw_cuda_table;

/* 0; or 1 if `version` is not the plug-in's or `size` is larger than its table. */
typedef int (*gw_cuda_table_function)(uint32_t version, uint32_t size, gw_cuda_table* out);

#ifdef __cplusplus
}
#endif
#endif
