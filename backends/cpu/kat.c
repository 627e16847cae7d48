/* SPDX-License-Identifier: Apache-2.0 */
/* Known-answer test of the CPU device, run when it is opened: the chosen kernels encode and decode
 * rows whose bytes are known.  A miscompiled build or a broken processor is refused here, with the
 * format. */
#include "device.h"
#include "fpenv.h"
#include "kat.h"
#include "../known.h"

static void run(const struct akv_cpu_kernel *kernel, const struct akv_cpu_args *args)
{
    for (uint32_t phase = 0; phase < kernel->phases; phase++)
        kernel->run(args, phase, 0, kernel->items(args, phase));
}

uint64_t akv_cpu_kat_hash(const struct akv_cpu_kernel *encode, const struct akv_cpu_kernel *decode,
                          uint32_t format)
{
    _Alignas(64) float rows[AKV_KNOWN_ROWS * AKV_KNOWN_DIM], back[AKV_KNOWN_ROWS * AKV_KNOWN_DIM];
    _Alignas(64) uint8_t tile[AKV_KNOWN_TILE];
    uint32_t saw = 0;
    akv_known_rows(rows);
    memset(tile, 0, sizeof tile);
    memset(back, 0, sizeof back);
    akv_encode_params params = akv_known_params(format);
    struct akv_cpu_args args = {.params = &params, .workers = 1};
    args.arg[0] = (uint8_t *)rows;
    args.arg_bytes[0] = sizeof rows;
    args.arg[1] = tile;
    args.arg_bytes[1] = akv_tile_bytes(format, AKV_KNOWN_ROWS, AKV_KNOWN_DIM);
    args.arg[2] = (uint8_t *)&saw;
    args.arg_bytes[2] = sizeof saw;
    run(encode, &args);
    args.arg[0] = tile;
    args.arg_bytes[0] = args.arg_bytes[1];
    args.arg[1] = (uint8_t *)back;
    args.arg_bytes[1] = sizeof back;
    run(decode, &args);
    return akv_known_hash(tile, back);
}

anykv_status akv_cpu_kat(struct akv_cpu_device *device)
{
    anykv_status status = ANYKV_OK;
    akv_fp_state saved = akv_fp_enter();
    for (size_t i = 0; i < sizeof akv_known / sizeof akv_known[0] && !status; i++) {
        uint64_t hash = akv_cpu_kat_hash(device->kernel[AKV_K_ENCODE], device->kernel[AKV_K_DECODE],
                                         akv_known[i].format);
        if (hash != akv_known[i].hash)
            status = akv_known_fail(&device->base, "cpu", akv_known[i].format, hash, akv_known[i].hash);
    }
    akv_fp_leave(saved);
    return status;
}
