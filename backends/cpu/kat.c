/* SPDX-License-Identifier: Apache-2.0 */
/* Known-answer test of the CPU device, run when it is opened: the chosen kernels encode and decode
 * rows whose bytes are known.  A miscompiled build or a broken processor is refused here, with the
 * format. */
#include "device.h"
#include "fpenv.h"
#include "kat.h"

enum { ROWS = 8, DIM = 96, TILE = ROWS * DIM * 4 };

/* Rows of every magnitude, ties and special values among them, from a fixed generator. */
static void fill_rows(float *rows)
{
    uint32_t state = 0x2545F491u;
    for (unsigned i = 0; i < ROWS * DIM; i++) {
        state = state * 1664525u + 1013904223u;
        uint32_t exponent = 120u + (state >> 28), bits = (state & 0x807FFFFFu) | exponent << 23;
        memcpy(&rows[i], &bits, sizeof bits);
    }
    static const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 1e-30f, 1e-45f, 65504.0f};
    memcpy(rows + DIM, special, sizeof special);
}

static uint64_t fnv(const uint8_t *bytes, size_t count)
{
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}

static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args)
{
    for (uint32_t phase = 0; phase < kernel->phases; phase++)
        kernel->run(args, phase, 0, kernel->items(args, phase));
}

uint64_t akv_cpu_kat_hash(const struct akv_cpu_kernel *encode, const struct akv_cpu_kernel *decode,
                          uint32_t format)
{
    _Alignas(64) float rows[ROWS * DIM], back[ROWS * DIM];
    _Alignas(64) uint8_t tile[TILE];
    uint32_t saw = 0;
    fill_rows(rows);
    memset(tile, 0, sizeof tile);
    memset(back, 0, sizeof back);
    akv_encode_params params = {.rows = {DIM, DIM, AKV_F32, 1},
                                .tokens = ROWS,
                                .dim = DIM,
                                .format = format,
                                .flags = AKV_FLAG_ROTATE | AKV_FLAG_SEARCH};
    struct akv_cpu_args args = {.params = &params, .workers = 1};
    args.arg[0] = (uint8_t *)rows;
    args.arg_bytes[0] = sizeof rows;
    args.arg[1] = tile;
    args.arg_bytes[1] = akv_tile_bytes(format, ROWS, DIM);
    args.arg[2] = (uint8_t *)&saw;
    args.arg_bytes[2] = sizeof saw;
    run(encode, &args);
    args.arg[0] = tile;
    args.arg_bytes[0] = args.arg_bytes[1];
    args.arg[1] = (uint8_t *)back;
    args.arg_bytes[1] = sizeof back;
    run(decode, &args);
    return fnv(tile, sizeof tile) ^ fnv((const uint8_t *)back, sizeof back);
}

anykv_status akv_cpu_kat(struct akv_cpu_device *device)
{
    static const struct {
        uint32_t format;
        uint64_t
            hash; /* of the packed and the decoded bytes; portable code gives it on every machine */
    } known[] = {
        {AKV_I8, UINT64_C(0xFEC6670E0BECE101)}, {AKV_N6, UINT64_C(0x94E224AD7D1F147B)},
        {AKV_N5, UINT64_C(0xFC1B18BF0147CD91)}, {AKV_N4, UINT64_C(0x1ABC3F8A82A4E8AF)},
        {AKV_N3, UINT64_C(0x4ECDFD3A29DF3E95)}, {AKV_N2, UINT64_C(0xF040D8A695ABCF3B)},
    };
    anykv_status status = ANYKV_OK;
    akv_fp_state saved = akv_fp_enter();
    for (size_t i = 0; i < sizeof known / sizeof known[0] && !status; i++) {
        uint64_t hash = akv_cpu_kat_hash(device->kernel[AKV_K_ENCODE], device->kernel[AKV_K_DECODE],
                                         known[i].format);
        if (hash != known[i].hash)
            status = akv_fail(device->base.context, ANYKV_E_DEVICE,
                              "cpu: known-answer test of %s gives %016llx, not %016llx",
                              anykv_format_name((anykv_format)known[i].format),
                              (unsigned long long)hash, (unsigned long long)known[i].hash);
    }
    akv_fp_leave(saved);
    return status;
}
