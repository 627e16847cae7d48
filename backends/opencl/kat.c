/* SPDX-License-Identifier: Apache-2.0 */
/* Known-answer test of an OpenCL device, run when it is opened: it encodes and decodes rows whose
 * bytes are known.  A compiler that contracts, reorders or flushes what it must not is refused
 * here, and one that loses its way in the loops over means and matrices. */
#include "cl.h"
#include <stdio.h>

enum {
    DIM = 64,
    HEADS = 2, /* of the cases with maps */
    ROWS = 8,
    COUNT = ROWS * DIM,
    TILE_MAX = COUNT * 4,
    /* Offsets in the maps: two records, then what they name. */
    MEAN = 2 * sizeof(akv_map),
    TURNS = MEAN + HEADS * DIM * 2,
    SCALES = TURNS + DIM / 2 * 8,
    MATRIX = SCALES + HEADS * 8,
    INVERSE = MATRIX + HEADS * DIM * DIM * 2,
    MAPS_END = INVERSE + HEADS * DIM * DIM * 4
};
_Static_assert(MAPS_END == AKV_CL_KNOWN_MAPS, "cl.h has another size of the maps");

/* SHA-256 of the tile, then of the decoded rows; tests/test_opencl.c derives them from the CPU. */
static const struct {
    const char *name;
    uint32_t format, map; /* 0: rotated, no map; else its record's number and 1 */
    const char *digest;
} answers[] = {
    {"I8", AKV_I8, 0, "0ef7877fbde800490c858496f6c2497af107c6c44c06b9a6f73941f00471b861"},
    {"N4", AKV_N4, 0, "912070843e435208a23060f56e18e2534d09bb1d4fa36ef92cbf6cf84eed923f"},
    {"I8 by mean and matrix", AKV_I8, 1,
     "35378737f963d6a27e0a516bf90078e2e1e3eea6737752251a78b43d63cd4b10"},
    {"I8 by matrix and scale", AKV_I8, 2,
     "8d846f955791eb1c7362dbd26d1b7edca28c251a18744ed8618598a25479c1ce"},
};

/* Bits of the rows, from a fixed generator: 16 magnitudes, then what conversions trip over, then
 * values on the ties of a scale that is a power of two. */
void akv_cl_known_rows(uint32_t rows[ROWS * DIM])
{
    static const uint32_t special[] = {
        0x00000000u, 0x80000000u, 0x7FC00001u, 0x7F800000u, 0xFF800000u, 0x00000001u, 0x807FFFFFu,
        0x33800000u, 0x337FFFFFu, 0x7F7FFFFFu, 0x3F800000u, 0xBF800000u, 0x477FE000u, 0x71800001u};
    uint32_t state = 0x2545F491u;
    for (unsigned i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        rows[i] = (state & 0x807FFFFFu) | (120u + (state >> 28)) << 23;
    }
    memcpy(rows + DIM, special, sizeof special);
    for (unsigned i = 0; i < DIM; i++) {
        float tie = ((float)i - 31.5f) * 0x1p-6f;
        memcpy(&rows[2 * DIM + i], &tie, sizeof tie);
    }
    /* Through two equal rows of a matrix: what remains is the rounding of the first product, which
     * a multiply-add that is not fused does not leave. */
    memset(rows + 7 * DIM, 0, DIM * sizeof *rows);
    rows[7 * DIM] = 0x44ABCDEFu;
    rows[7 * DIM + 1] = 0xC4ABCDEFu;
}

/* Two maps: of keys, a mean that turns and a matrix; of values, a scale and a matrix.  The inverse
 * is none, any numbers do. */
void akv_cl_known_maps(uint8_t maps[AKV_CL_KNOWN_MAPS])
{
    const akv_map record[2] = {{.transform = AKV_TRANSFORM_MATRIX,
                                .mean = MEAN,
                                .matrix = MATRIX,
                                .inverse = INVERSE,
                                .pairs = DIM / 2,
                                .rope = AKV_ROPE_HALF,
                                .turns = TURNS},
                               {.transform = AKV_TRANSFORM_MATRIX,
                                .matrix = MATRIX,
                                .inverse = INVERSE,
                                .scales = SCALES}};
    const float scale[HEADS * 2] = {0.75f, 1.25f, 1.5f, 0.625f};
    uint32_t state = 0x9E3779B9u;
    memcpy(maps, record, sizeof record);
    memcpy(maps + SCALES, scale, sizeof scale);
    for (unsigned at = MEAN; at < MAPS_END;
         at += at < INVERSE && (at < TURNS || at >= MATRIX) ? 2 : 4) {
        state = state * 1664525u + 1013904223u;
        uint32_t bits = state >> 8; /* the low bits of the generator hardly change */
        const uint16_t half = (uint16_t)((bits & 0x83FFu) | (14u - (bits >> 21)) << 10);
        const uint32_t word = (bits & 0x7FFFFFu) | (bits >> 23 ? 0xBD000000u : 0x3D000000u);
        if (at < TURNS || (at >= MATRIX && at < INVERSE))
            memcpy(maps + at, &half, sizeof half);
        else if (at < SCALES || at >= INVERSE)
            memcpy(maps + at, &word, sizeof word);
    }
    memcpy(maps + MATRIX + (DIM + 1) * DIM * 2, maps + MATRIX + DIM * DIM * 2, DIM * 2);
}

bool akv_cl_known_case(uint32_t number, struct akv_cl_known *known_out)
{
    if (number >= sizeof answers / sizeof *answers)
        return false;
    const uint32_t map = answers[number].map, heads = map ? HEADS : 1;
    known_out->name = answers[number].name;
    known_out->digest = answers[number].digest;
    known_out->params =
        (akv_encode_params){.rows = {heads * DIM, DIM, AKV_F32, heads},
                            .tokens = ROWS / heads,
                            .dim = DIM,
                            .format = answers[number].format,
                            .flags = map ? AKV_FLAG_MAP : AKV_FLAG_ROTATE | AKV_FLAG_SEARCH,
                            .map = map ? (map - 1u) * (uint32_t)sizeof(akv_map) : 0,
                            .position = 1000};
    return true;
}

/* What comes back: outlives the queue, which may still write when a wait has failed. */
struct results {
    uint32_t rows[COUNT];
    uint8_t tile[TILE_MAX];
    uint8_t maps[AKV_CL_KNOWN_MAPS]; /* what goes there */
};

struct bench {
    struct akv_cl_device *device;
    struct results *results;
    struct akv_queue *queue;
    struct akv_mem *rows, *tile, *flags, *maps;
};

static struct akv_span whole(struct akv_mem *mem)
{
    return (struct akv_span){mem, 0, mem->bytes};
}

/* Encodes and decodes on the device; the digest is of what came back. */
static anykv_status answer(const struct bench *bench, const akv_encode_params *params,
                           akv_digest *digest_out)
{
    uint32_t *rows = bench->results->rows, zero = 0;
    uint8_t *tile = bench->results->tile;
    akv_cl_known_rows(rows);
    struct akv_launch encode = {
        .kernel = AKV_K_ENCODE,
        .params = params,
        .arg = {whole(bench->rows), whole(bench->tile), whole(bench->flags), whole(bench->maps)}};
    struct akv_launch decode = {
        .kernel = AKV_K_DECODE,
        .params = params,
        .arg = {whole(bench->tile), whole(bench->rows), whole(bench->maps)}};
    struct akv_span used = {bench->tile, 0, akv_tile_bytes(params->format, ROWS, DIM)};
    anykv_status status = akv_cl_queue_put(bench->queue, whole(bench->rows), rows);
    if (status == ANYKV_OK)
        status = akv_cl_queue_put(bench->queue, whole(bench->flags), &zero);
    if (status == ANYKV_OK)
        status = akv_cl_kernel_launch(bench->queue, &encode);
    if (status == ANYKV_OK)
        status = akv_cl_queue_get(bench->queue, tile, used);
    if (status == ANYKV_OK)
        status = akv_cl_kernel_launch(bench->queue, &decode);
    if (status == ANYKV_OK)
        status = akv_cl_queue_get(bench->queue, rows, whole(bench->rows));
    if (status == ANYKV_OK)
        status = akv_cl_queue_wait(bench->queue, UINT64_MAX);
    if (status != ANYKV_OK)
        return status;
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, tile, used.bytes);
    akv_sha256_update(&state, rows, sizeof bench->results->rows);
    *digest_out = akv_sha256_final(&state);
    return ANYKV_OK;
}

static anykv_status compare(const struct bench *bench)
{
    struct akv_cl_known known;
    akv_cl_known_maps(bench->results->maps);
    anykv_status status = akv_cl_queue_put(bench->queue, whole(bench->maps), bench->results->maps);
    for (uint32_t i = 0; status == ANYKV_OK && akv_cl_known_case(i, &known); i++) {
        akv_digest digest;
        char text[65];
        status = answer(bench, &known.params, &digest);
        if (status != ANYKV_OK)
            return status;
        for (size_t b = 0; b < sizeof digest.byte; b++)
            snprintf(text + 2 * b, 3, "%02x", digest.byte[b]);
        if (strcmp(text, known.digest) != 0) {
            akv_log(bench->device->base.context, ANYKV_LOG_ERROR,
                    "opencl: %s is refused: its bytes of %s are wrong (%.16s, not %.16s)",
                    bench->device->base.info.name, known.name, text, known.digest);
            return akv_fail(
                bench->device->base.context, ANYKV_E_DEVICE,
                "device: %s fails the known-answer test of %s: its bytes differ from every "
                "other device's (%.16s, not %.16s)",
                bench->device->base.info.name, known.name, text, known.digest);
        }
    }
    return status;
}

anykv_status akv_cl_known_answers(struct akv_cl_device *device)
{
    struct bench bench = {.device = device};
    struct akv_device *base = &device->base;
    bench.results = akv_alloc(base->context, 1, sizeof *bench.results);
    if (!bench.results)
        return ANYKV_E_MEMORY;
    anykv_status status = akv_cl_queue_create(base, NULL, &bench.queue);
    if (status != ANYKV_OK)
        goto free_results;
    status = akv_cl_mem_alloc(base, COUNT * 4, AKV_MEM_DEVICE, &bench.rows);
    if (status != ANYKV_OK)
        goto destroy_queue;
    status = akv_cl_mem_alloc(base, TILE_MAX, AKV_MEM_DEVICE, &bench.tile);
    if (status != ANYKV_OK)
        goto free_rows;
    status = akv_cl_mem_alloc(base, 4, AKV_MEM_DEVICE, &bench.flags);
    if (status != ANYKV_OK)
        goto free_tile;
    status = akv_cl_mem_alloc(base, AKV_CL_KNOWN_MAPS, AKV_MEM_DEVICE, &bench.maps);
    if (status != ANYKV_OK)
        goto free_flags;
    status = compare(&bench);
    /* A wait that failed says lost, and then destroying waits for nothing; but a driver may still
     * be at work and write to results. */
    if (status != ANYKV_OK)
        (void)device->cl->finish(akv_cl_queue(bench.queue)->queue);
    akv_cl_mem_free(bench.maps);
free_flags:
    akv_cl_mem_free(bench.flags);
free_tile:
    akv_cl_mem_free(bench.tile);
free_rows:
    akv_cl_mem_free(bench.rows);
destroy_queue:
    akv_cl_queue_destroy(bench.queue);
free_results:
    akv_free(base->context, bench.results);
    return status;
}
