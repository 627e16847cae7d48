/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of `anykv verify` share: targets, rows of the table, launches and their
 * comparison.
 *
 * A case is one kernel with one set of parameters on one set of inputs.  What it must write is
 * known before it runs: the scalar reference (the portable code of the CPU backend) encodes and
 * decodes dense rows, and the harness itself puts those bytes where strides, block tables and tile
 * orders want them. Every case runs in two launch shapes, which differ in base offsets, strides,
 * threads and the floating-point environment of the caller. */
#ifndef AKV_VERIFY_H
#define AKV_VERIFY_H
#include "../backends/cpu/cpu.h"
#include "cli.h"
#include "progress.h"

#define VERIFY_SHAPES  2u
#define VERIFY_SPANS   (AKV_MAX_ARGS + AKV_MAX_SLABS)
#define VERIFY_GUARD   256u /* bytes before and behind every span */
#define VERIFY_TARGETS 16u
#define VERIFY_DIMS    9u
extern const uint32_t verify_dims[VERIFY_DIMS];

/* One open device with its queue, and a growing buffer for each span of a launch. */
struct verify_side {
    struct akv_device *device;
    struct akv_queue *queue;
    bool owned;
    bool odd_float; /* launches run while the caller's thread rounds upward and flushes denormals */
    struct akv_mem *mem[VERIFY_SPANS];
};

/* Something under test: a device, at one ISA level where it is a CPU. */
struct verify_target {
    char label[16];  /* what --device takes */
    const char *isa; /* NULL: a GPU */
    char skip[256];  /* why nothing can run here; empty: it can */
    bool required;
    const struct akv_cpu_kernel *planted; /* runs in place of ENCODE */
    uint32_t plant;
    struct verify_side side[VERIFY_SHAPES];
};

/* One row of the table: a kernel and format on one target. */
struct verify_row {
    uint64_t elements, differ, nanoseconds, cases;
    double max_error;  /* of the bound, BOUNDED kernels only */
    uint64_t failures; /* cases that could not run or broke their bound */
    char skipped[256];
};

/* A span of a launch.  data: the bytes before it (NULL: the pattern); expect: the bytes after it
 * (NULL: as before; pointing to verify_any: not compared). */
struct verify_span {
    const void *data;
    const void *expect;
    uint64_t bytes; /* 0: absent */
};
extern const uint8_t verify_any[1];

struct verify_launch {
    const void *params;
    struct verify_span span[VERIFY_SPANS]; /* arguments, then from AKV_MAX_ARGS on slabs */
    uint32_t slabs;
    void *result[VERIFY_SPANS]; /* receives the bytes after the launch, or NULL */
    /* Prints which input a byte of a span came from, and that input. */
    void (*explain)(const struct verify_launch *launch, uint32_t span, uint64_t offset);
    const void *user;
};

struct verify {
    anykv_context *context;
    uint64_t elements, seed;
    const char *only; /* the one case to run, or NULL */
    const char *kernel_glob;
    const char *format_glob;
    struct verify_target target[VERIFY_TARGETS];
    uint32_t targets;
    struct verify_side reference;
    struct akv_progress progress;
    uint64_t work_done;
    bool json;

    /* the row being made */
    enum akv_kernel_id kernel;
    const char *format;
    struct verify_row row[VERIFY_TARGETS];
    /* the case being made */
    char name[128];
    uint32_t faults;  /* memory or reference failures: the whole run stops */
    uint8_t *scratch; /* image of one span with its guards */
    uint64_t scratch_bytes;
};

/* ---- verify_run.c ---- */
anykv_status verify_side_open(struct verify *v, struct verify_side *side, const char *device,
                              const anykv_device_options *options);
void verify_side_close(struct verify_side *side);
/* The byte that stands at `offset` wherever nothing has been written. */
static inline uint8_t verify_pattern(uint64_t offset)
{
    return (uint8_t)(0x9Du + 37u * (uint32_t)offset);
}
void verify_fill_pattern(void *bytes, uint64_t count);
/* Names the case; false when --case wants another one.  elements: what it adds to the row. */
bool verify_case(struct verify *v, uint64_t elements, const char *format, ...) AKV_PRINTF(3, 4);
/* Runs a launch on the reference; false after a failure (printed, counted in v->faults). */
bool verify_reference(struct verify *v, enum akv_kernel_id kernel,
                      const struct verify_launch *launch);
/* Runs the case, shape by shape, on every target of the row and compares.  elements: as
 * verify_case. */
void verify_compare(struct verify *v, uint64_t elements,
                    const struct verify_launch shape[VERIFY_SHAPES]);
/* Whether target t can still run cases of this row with these parameters; records the skip. */
bool verify_target_runs(struct verify *v, uint32_t t, const void *params);
/* One launch on one side.  differ_out counts bytes that are not as expected, guards included; the
 * first one is printed if `print`. */
anykv_status verify_launch_on(struct verify *v, struct verify_side *side, uint32_t shape,
                              const struct verify_target *target, enum akv_kernel_id kernel,
                              const struct verify_launch *launch, bool print, uint64_t *differ_out);
void verify_failed(struct verify *v, uint32_t t, const char *format, ...) AKV_PRINTF(3, 4);
void verify_replay_line(const struct verify *v, const struct verify_target *target);

/* ---- verify_data.c ---- */
uint64_t verify_mix(uint64_t seed, uint64_t value);     /* another seed */
uint64_t verify_random(uint64_t *state);                /* 64 bits */
uint32_t verify_below(uint64_t *state, uint32_t limit); /* 0 … limit-1 */
void *verify_alloc(struct verify *v, uint64_t bytes);   /* NULL: counted in v->faults */
/* Adversarial rows in a dtype, dense, made for a format and its flags.  In 16-bit dtypes every
 * eighth row is consecutive bit patterns, so that all 65,536 occur. */
bool verify_rows(struct verify *v, void *rows, uint64_t n, uint32_t dim, uint32_t format,
                 uint32_t flags, uint32_t dtype, uint64_t seed);
/* A ROW order tile of arbitrary codes and arbitrary finite scales, every UE5M3 value among them. */
void verify_random_tile(void *tile, uint32_t format, uint32_t tokens, uint32_t dim,
                        uint64_t *state);
/* Dense rows to strided ones and their extent in bytes. */
uint64_t verify_extent(const akv_rows *rows, uint32_t tokens, uint32_t dim);
void verify_spread(void *into, const akv_rows *rows, const void *dense, uint32_t tokens,
                   uint32_t dim);
/* ROW order tile to QUAD order. */
void verify_quad(void *into, const void *row_tile, uint32_t format, uint32_t tokens, uint32_t dim);
/* Dense reference encode and decode of `n` rows; tile has akv_tile_bytes(format, n, dim) bytes. */
bool verify_encode_rows(struct verify *v, const void *rows, uint32_t dtype, uint32_t n,
                        uint32_t dim, uint32_t format, uint32_t flags, void *tile,
                        uint32_t *saw_out);
bool verify_decode_rows(struct verify *v, const void *tile, uint32_t n, uint32_t dim,
                        uint32_t format, uint32_t flags, uint32_t dtype, void *rows);
void verify_print_row(const char *what, const void *row, uint32_t dtype, uint32_t dim);
const char *verify_format_name(uint32_t format); /* "N4" */

/* ---- verify_pool.c ---- */
/* A pool in host memory, as it stands before a launch and as it must stand after it.  Chunks of the
 * kinds alternate and blocks are dealt out in random order over two slabs. */
struct verify_pool {
    akv_pool_map map;
    uint64_t slab_bytes;
    uint8_t *before[AKV_MAX_SLABS], *after[AKV_MAX_SLABS];
    uint32_t *entry[AKV_KINDS]; /* shuffled table entries of each kind */
    uint32_t count[AKV_KINDS];
};
/* block_bytes and count of each kind; kinds of count 0 are unused.  Filled with the pattern. */
bool verify_pool_create(struct verify *v, struct verify_pool *pool, uint32_t kinds,
                        const uint32_t *block_bytes, const uint32_t *count, uint64_t *state);
void verify_pool_destroy(struct verify *v, struct verify_pool *pool);
/* Writes bytes at a pool address into `after`, and into `before` unless only_after. */
void verify_pool_write(struct verify_pool *pool, uint64_t address, const void *bytes,
                       uint64_t count, bool only_after);
/* Adds the slabs to a launch. */
void verify_pool_bind(const struct verify_pool *pool, struct verify_launch *launch);
/* Compares a launch that makes blocks of kind 1 out of those of kind 0, one by one: span[1] becomes the list
 * of moves, in two orders for the two shapes; the other arguments are the caller's. */
void verify_moves(struct verify *v, const struct verify_pool *pool, const struct verify_launch *launch,
                  uint64_t elements);
/* Rows [first, first + tokens) of a ROW order tile of n rows as a tile of their own. */
void verify_slice(void *into, const void *tile, uint32_t format, uint32_t n, uint32_t dim,
                  uint32_t first, uint32_t tokens);
void verify_shuffle(uint32_t *items, uint32_t count, uint64_t *state);
/* Block tokens that the cases take in turn. */
uint32_t verify_block_tokens(uint32_t variant);
/* How many of the elements one of `combinations` cases has to bring. */
uint64_t verify_share(const struct verify *v, uint32_t combinations);
/* False for two of three cases whose smallest size is far more than so few elements ask for; a case that
 * --case names is never left out. */
bool verify_wanted(const struct verify *v, uint32_t number);

/* ---- families ---- */
void verify_encode(struct verify *v, uint32_t format);
void verify_decode(struct verify *v, uint32_t format);
void verify_rotate(struct verify *v, uint32_t format);
void verify_seal(struct verify *v, uint32_t format);
void verify_reencode(struct verify *v, uint32_t format);
void verify_append(struct verify *v, uint32_t format);
void verify_gather(struct verify *v, uint32_t format);
void verify_copy(struct verify *v, uint32_t format);
void verify_attend(struct verify *v, uint32_t k_format, uint32_t v_format);
/* verify_maps.c: the cases of means and matrices of the kernel in hand. */
void verify_maps(struct verify *v, uint32_t format);
void verify_shift(struct verify *v, uint32_t format);
void verify_score(struct verify *v, uint32_t format);
void verify_mean(struct verify *v, uint32_t format);
void verify_mass(struct verify *v, uint32_t format);
void verify_select(struct verify *v, uint32_t format);
void verify_compact(struct verify *v, uint32_t format);
void verify_bx16(struct verify *v, uint32_t format);
void verify_rans(struct verify *v, uint32_t format);
void verify_lowrank(struct verify *v, uint32_t format); /* project, read, rows */
void verify_multiply(struct verify *v, uint32_t format);

#endif
