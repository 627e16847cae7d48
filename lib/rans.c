/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of entropy-coded symbols: shapes, counting, coding, damage. */
#include "rans.h"
#include "kernel/format.h"

/* ---- shapes ---- */

/* Not more than 2^30 symbols; a tile's last step has all lanes. */
static bool finish(akv_rans_params *shape, uint64_t steps)
{
    const uint64_t stripes = (uint64_t)shape->heads * shape->groups;
    shape->last = shape->last ? shape->last : AKV_RANS_LANES;
    shape->tables = 1;
    return steps > 0 && stripes > 0 && steps <= AKV_RANS_MAX && stripes <= AKV_RANS_MAX / steps &&
           akv_rans_width(shape) != 0;
}

bool akv_rans_codes(akv_rans_params *shape, uint32_t format, uint32_t order, uint32_t dim, uint32_t rows,
                    uint32_t heads, uint32_t tiles, bool mixed)
{
    const uint32_t bits[2] = {akv_format_plane0(format), akv_format_plane1(format)};
    const uint32_t groups = akv_padded_dim(dim) / 32u, width = bits[0] + bits[1];
    const bool quad = order == AKV_ORDER_QUAD;
    memset(shape, 0, sizeof *shape);
    if (akv_format_raw(format) || akv_format_blocks(format) || heads == 0 || rows == 0 ||
        (mixed ? quad || tiles != 1 || rows % heads : tiles % heads) || (quad && rows % 4))
        return false;
    const uint32_t tile_words = akv_tile_bytes(format, rows, dim) / 4u;
    shape->heads = heads;
    shape->groups = quad ? groups * 4u : groups;
    shape->tiles = mixed ? 1 : tiles / heads;
    shape->tile_steps = mixed ? rows / heads : quad ? rows / 4u : rows;
    shape->raw = width > 4u ? width - 4u : 0;
    for (uint32_t i = 0; i < 2u; i++) {
        akv_rans_plane *plane = &shape->plane[i];
        const uint32_t row = groups * bits[i];
        plane->bits = bits[i];
        plane->at = i ? akv_plane1_offset(format, rows, dim) / 4u : 0;
        plane->tile = mixed ? 0 : heads * tile_words;
        plane->head = mixed ? row : tile_words;
        plane->step = quad ? bits[i] : mixed ? row * heads : row;
        plane->group = quad ? rows / 4u * bits[i] : bits[i] == 8u ? 8u : 1u;
        plane->word = quad || bits[i] == 8u ? 1u : groups;
    }
    return finish(shape, (uint64_t)shape->tiles * shape->tile_steps);
}

bool akv_rans_scales(akv_rans_params *shape, uint32_t format, uint32_t dim, uint32_t rows, uint32_t heads,
                     uint32_t tiles, bool mixed)
{
    memset(shape, 0, sizeof *shape);
    if (akv_format_raw(format) || akv_format_blocks(format) || heads == 0 || rows == 0 ||
        (mixed ? tiles != 1 : tiles % heads))
        return false;
    const uint32_t bytes = akv_pad16(rows * akv_scale_count(format, dim) * akv_scale_bytes(format));
    akv_rans_plane *plane = &shape->plane[0];
    shape->heads = shape->groups = 1;
    shape->tiles = tiles;
    shape->tile_steps = (bytes + 31u) / 32u;
    shape->last = bytes % 32u ? 16u : 32u;
    shape->raw = AKV_RANS_SIGNED;
    shape->centre = AKV_RANS_MEDIAN;
    plane->bits = 8;
    plane->at = akv_scale_offset(format, rows, dim) / 4u;
    plane->tile = akv_tile_bytes(format, rows, dim) / 4u;
    plane->step = 8;
    plane->word = 1;
    return finish(shape, (uint64_t)shape->tiles * shape->tile_steps);
}

bool akv_rans_matrix(akv_rans_params *shape, uint32_t rows, uint32_t columns, bool signed_)
{
    memset(shape, 0, sizeof *shape);
    if (columns == 0 || columns % 32u)
        return false;
    shape->heads = shape->tiles = 1;
    shape->groups = columns / 32u;
    shape->tile_steps = rows;
    shape->raw = signed_ ? AKV_RANS_SIGNED : 4u;
    shape->plane[0] = (akv_rans_plane){.bits = 8, .step = columns / 4u, .group = 8, .word = 1};
    return finish(shape, rows);
}

/* ---- streams ---- */

static uint64_t head_words(const akv_rans_params *shape)
{
    return AKV_RANS_HEAD / 4u + akv_rans_model_words(shape) + 2ull * akv_rans_segments(shape);
}

static uint64_t stream_bytes(const akv_rans_params *shape, uint32_t segment_words)
{
    return ((head_words(shape) + segment_words) * 4u + 15u) & ~15ull;
}

uint64_t akv_rans_most(const akv_rans_params *shape)
{
    akv_rans_params most = *shape;
    most.tables = akv_rans_choose(shape);
    return (AKV_RANS_HEAD + akv_rans_model_words(&most) * 4ull + akv_rans_body_most(&most) + 15u) & ~15ull;
}

static uint32_t check_of(const uint8_t *stream, uint64_t words)
{
    uint32_t sum = 0;
    for (uint64_t j = 0; j < words; j++) {
        uint32_t word;
        memcpy(&word, stream + j * 4u, 4);
        sum += j == 1 ? 0 : akv_bx16_mix(word, (uint32_t)j);
    }
    return sum;
}

/* What a call keeps on the device, and on the host. */
enum { COUNTS, MODEL, BODY, SCRATCH, DAMAGED, MEMORIES };
struct job {
    anykv_device *device;
    akv_rans_params params;
    struct akv_span words;
    struct akv_mem *mem[MEMORIES];
    uint32_t *counts, *model;
    uint64_t *keys;
};

static anykv_status job_mem(struct job *job, uint32_t which, uint64_t bytes, struct akv_span *span_out)
{
    anykv_status status = akv_mem_alloc(job->device->device, bytes, AKV_MEM_DEVICE, &job->mem[which]);
    if (!status)
        *span_out = (struct akv_span){job->mem[which], 0, bytes};
    return status;
}

/* Nothing may be under way on what is freed; what failed first is reported. */
static anykv_status job_end(struct job *job, anykv_status status)
{
    anykv_status finished = akv_device_finish(job->device);
    for (uint32_t i = 0; i < MEMORIES; i++)
        akv_mem_free(job->mem[i]);
    akv_free(job->device->context, job->counts);
    akv_free(job->device->context, job->model);
    akv_free(job->device->context, job->keys);
    return status ? status : finished;
}

/* The byte that half of the symbols are not above; of pairs of bytes, the upper ones'. */
static anykv_status median(struct job *job)
{
    enum { MOST = 65536 };
    const akv_rans_plane *plane = &job->params.plane[0];
    const uint64_t at = (uint64_t)plane->at * 4u, bytes = AKV_MIN((uint64_t)MOST, plane->tile * 4ull - at);
    uint64_t counts[256] = {0}, seen = 0;
    uint8_t *symbols = akv_alloc(job->device->context, (size_t)bytes, 1);
    if (!symbols)
        return ANYKV_E_MEMORY;
    const struct akv_span span = {job->words.mem, job->words.offset + at, bytes};
    anykv_status status = akv_queue_get(job->device->queue, symbols, span);
    anykv_status finished = akv_device_finish(job->device);
    for (uint64_t i = 1; i < bytes; i += 2)
        counts[symbols[i]]++;
    akv_free(job->device->context, symbols);
    for (job->params.centre = 0; job->params.centre < 255u; job->params.centre++) {
        seen += counts[job->params.centre];
        if (seen * 2u >= bytes / 2u)
            break;
    }
    return status ? status : finished;
}

static anykv_status make_model(struct job *job)
{
    anykv_context *context = job->device->context;
    const size_t columns = (size_t)akv_rans_stripes(&job->params) * AKV_RANS_LANES;
    struct akv_queue *queue = job->device->queue;
    struct akv_span counts;
    job->params.tables = akv_rans_choose(&job->params);
    job->counts = akv_alloc(context, columns, AKV_RANS_CLASSES * 4u);
    job->keys = akv_alloc(context, columns, sizeof *job->keys);
    job->model = akv_alloc(context, akv_rans_model_words(&job->params), 4);
    if (!job->counts || !job->keys || !job->model)
        return ANYKV_E_MEMORY;
    anykv_status status = job_mem(job, COUNTS, columns * AKV_RANS_CLASSES * 4u, &counts);
    if (status)
        return status;
    struct akv_launch launch = {.kernel = AKV_K_RANS_COUNT, .params = &job->params};
    launch.arg[0] = job->words;
    launch.arg[1] = counts;
    status = akv_queue_fill(queue, counts, 0);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status)
        status = akv_queue_get(queue, job->counts, counts);
    anykv_status finished = akv_device_finish(job->device);
    if (status || finished)
        return status ? status : finished;
    akv_rans_model(&job->params, job->counts, job->keys, job->model);
    return ANYKV_OK;
}

/* The model's bytes to the device. */
static anykv_status put_model(struct job *job, struct akv_span *span)
{
    anykv_status status = job_mem(job, MODEL, akv_rans_model_words(&job->params) * 4ull, span);
    return status ? status : akv_queue_put(job->device->queue, *span, job->model);
}

/* The body into mem[BODY], and how many words its segments have. */
static anykv_status encode(struct job *job, uint32_t *words_out)
{
    struct akv_launch launch = {.kernel = AKV_K_RANS_ENCODE, .params = &job->params};
    struct akv_queue *queue = job->device->queue;
    launch.arg[0] = job->words;
    anykv_status status = put_model(job, &launch.arg[1]);
    if (!status)
        status = job_mem(job, BODY, akv_rans_body_most(&job->params), &launch.arg[2]);
    if (!status)
        status = job_mem(job, SCRATCH, akv_rans_body_most(&job->params), &launch.arg[3]);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status)
        status = akv_queue_get(queue, words_out,
                               (struct akv_span){job->mem[BODY], (akv_rans_segments(&job->params) - 1ull) * 8u, 4});
    anykv_status finished = akv_device_finish(job->device);
    return status ? status : finished;
}

static anykv_status write_stream(struct job *job, uint32_t segment_words, uint8_t *out, uint64_t bytes)
{
    const akv_rans_params *p = &job->params;
    const uint32_t head[4] = {(uint32_t)bytes, 0, p->tables | p->raw << 8 | p->centre << 16, akv_rans_steps(p)};
    const uint64_t model = akv_rans_model_words(p) * 4ull;
    const uint64_t body = (akv_rans_segments(p) * 2ull + segment_words) * 4u;
    anykv_status status = akv_queue_get(job->device->queue, out + AKV_RANS_HEAD + model,
                                        (struct akv_span){job->mem[BODY], 0, body});
    anykv_status finished = akv_device_finish(job->device);
    memcpy(out, head, sizeof head);
    memcpy(out + AKV_RANS_HEAD, job->model, model);
    memset(out + AKV_RANS_HEAD + model + body, 0, bytes - AKV_RANS_HEAD - model - body);
    const uint32_t check = check_of(out, head_words(p));
    memcpy(out + 4, &check, 4);
    return status ? status : finished;
}

anykv_status akv_rans_pack(anykv_device *device, const akv_rans_params *shape, struct akv_span words,
                           uint8_t *out, uint64_t capacity, uint64_t *bytes_out)
{
    struct job job = {.device = device, .params = *shape, .words = words};
    uint32_t segment_words = 0;
    uint64_t bytes = 0;
    anykv_status status = shape->centre == AKV_RANS_MEDIAN ? median(&job) : ANYKV_OK;
    if (!status)
        status = make_model(&job);
    if (!status)
        status = encode(&job, &segment_words);
    if (!status)
        bytes = stream_bytes(&job.params, segment_words);
    if (!status && bytes > capacity)
        status = akv_fail(device->context, ANYKV_E_SHAPE, "compress capacity: %llu, %llu bytes are needed",
                          (unsigned long long)capacity, (unsigned long long)bytes);
    if (!status)
        status = write_stream(&job, segment_words, out, bytes);
    status = job_end(&job, status);
    if (!status)
        *bytes_out = bytes;
    return status;
}

/* The head of a stream into params, and its model; false: damaged or not of this shape. */
static bool read_stream(struct job *job, const uint8_t *in, uint64_t bytes)
{
    uint32_t head[4], last;
    if (bytes < AKV_RANS_HEAD)
        return false;
    memcpy(head, in, sizeof head);
    job->params.tables = head[2] & 0xFFu;
    job->params.centre = head[2] >> 16;
    if (job->params.tables == 0 || job->params.tables > AKV_RANS_TABLES || (head[2] >> 8 & 0xFFu) != job->params.raw ||
        job->params.centre > 255u || head[3] != akv_rans_steps(&job->params) || head[0] > bytes)
        return false;
    const uint64_t words = head_words(&job->params);
    if (words * 4u > head[0] || check_of(in, words) != head[1])
        return false;
    memcpy(&last, in + (words - 2u) * 4u, 4);
    job->params.words = last;
    return last <= (uint64_t)akv_rans_steps(&job->params) * akv_rans_width(&job->params) &&
           stream_bytes(&job->params, last) == head[0];
}

anykv_status akv_rans_unpack(anykv_device *device, const akv_rans_params *shape, const uint8_t *in,
                             uint64_t bytes, struct akv_span words, uint64_t *bytes_out)
{
    struct job job = {.device = device, .params = *shape, .words = words};
    struct akv_queue *queue = device->queue;
    struct akv_launch launch = {.kernel = AKV_K_RANS_DECODE, .params = &job.params};
    uint32_t damaged = 0;
    if (!read_stream(&job, in, bytes))
        return akv_fail(device->context, ANYKV_E_DATA, "compressed symbols: the head of a stream is damaged");
    const uint64_t model = akv_rans_model_words(&job.params) * 4ull;
    const uint8_t *body = in + AKV_RANS_HEAD + model;
    uint32_t all;
    memcpy(&all, in, 4);
    job.model = akv_alloc(device->context, (size_t)model, 1);
    anykv_status status = job.model ? ANYKV_OK : ANYKV_E_MEMORY;
    if (!status) {
        memcpy(job.model, in + AKV_RANS_HEAD, model);
        if (!akv_rans_model_valid(&job.params, job.model))
            status = akv_fail(device->context, ANYKV_E_DATA, "compressed symbols: a table is damaged");
    }
    if (!status)
        status = job_mem(&job, BODY, all - AKV_RANS_HEAD - model, &launch.arg[0]);
    if (!status)
        status = akv_queue_put(queue, launch.arg[0], body);
    if (!status)
        status = put_model(&job, &launch.arg[1]);
    launch.arg[2] = words;
    if (!status)
        status = job_mem(&job, DAMAGED, sizeof damaged, &launch.arg[3]);
    if (!status)
        status = akv_queue_fill(queue, launch.arg[3], 0);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status)
        status = akv_queue_get(queue, &damaged, launch.arg[3]);
    status = job_end(&job, status);
    if (!status && damaged)
        return akv_fail(device->context, ANYKV_E_DATA, "compressed symbols: a segment is damaged");
    if (!status)
        *bytes_out = all;
    return status;
}

/* ---- host memory ---- */

static bool seen(const anykv_device *device, const void *words)
{
    return device->device->host_window != NULL && (uintptr_t)words % 16 == 0;
}

anykv_status akv_rans_pack_host(anykv_device *device, const akv_rans_params *shape, const void *words,
                                uint64_t bytes, uint8_t *out, uint64_t capacity, uint64_t *bytes_out)
{
    struct akv_mem *mem = NULL;
    if (seen(device, words))
        return akv_rans_pack(device, shape, akv_host_span(device->device, words, bytes), out, capacity, bytes_out);
    anykv_status status = akv_mem_alloc(device->device, bytes, AKV_MEM_DEVICE, &mem);
    const struct akv_span span = {mem, 0, bytes};
    if (!status)
        status = akv_queue_put(device->queue, span, words);
    if (!status)
        status = akv_rans_pack(device, shape, span, out, capacity, bytes_out);
    anykv_status finished = akv_device_finish(device);
    akv_mem_free(mem);
    return status ? status : finished;
}

anykv_status akv_rans_unpack_host(anykv_device *device, const akv_rans_params *shape, const uint8_t *in,
                                  uint64_t bytes, void *words, uint64_t words_bytes, uint64_t *bytes_out)
{
    struct akv_mem *mem = NULL;
    if (seen(device, words))
        return akv_rans_unpack(device, shape, in, bytes, akv_host_span(device->device, words, words_bytes),
                               bytes_out);
    anykv_status status = akv_mem_alloc(device->device, words_bytes, AKV_MEM_DEVICE, &mem);
    const struct akv_span span = {mem, 0, words_bytes};
    if (!status) /* what lies between symbols stays as it is */
        status = akv_queue_put(device->queue, span, words);
    if (!status)
        status = akv_rans_unpack(device, shape, in, bytes, span, bytes_out);
    if (!status)
        status = akv_queue_get(device->queue, words, span);
    anykv_status finished = akv_device_finish(device);
    akv_mem_free(mem);
    return status ? status : finished;
}
