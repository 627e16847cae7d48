/* SPDX-License-Identifier: Apache-2.0 */
/* verify: one launch between guard bytes, compared byte by byte with what it must write. */
#include "verify.h"
#include <fenv.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

const uint8_t verify_any[1] = {0};
const uint32_t verify_dims[VERIFY_DIMS] = {64, 80, 96, 112, 128, 192, 256, 512, 576};

/* The pattern repeats after 256 bytes. */
void verify_fill_pattern(void *bytes, uint64_t count)
{
    uint8_t *at = bytes;
    uint64_t done = AKV_MIN(count, 256u);
    for (uint64_t i = 0; i < done; i++)
        at[i] = verify_pattern(i);
    for (; done < count; done += AKV_MIN(done, count - done))
        memcpy(at + done, at, AKV_MIN(done, count - done));
}

/* ---- the caller's floating-point environment ---- */

/* Upward rounding and, where there is such a thing, flushing of denormals: rule R13 says that
 * kernels do not care. */
static void odd_float_begin(fenv_t *saved)
{
    fegetenv(saved);
#if defined(FE_UPWARD)
    fesetround(FE_UPWARD);
#endif
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040u);
#endif
}

/* ---- sides ---- */

anykv_status verify_side_open(struct verify *v, struct verify_side *side, const char *device,
                              const anykv_device_options *options)
{
    fenv_t saved;
    if (side->odd_float)
        odd_float_begin(&saved); /* threads of the device inherit it */
    anykv_status status = akv_device_open(v->context, device, options, &side->device);
    if (status == ANYKV_OK) {
        side->owned = true;
        status = akv_queue_create(side->device, NULL, &side->queue);
    }
    if (side->odd_float)
        fesetenv(&saved);
    if (status != ANYKV_OK)
        verify_side_close(side);
    return status;
}

void verify_side_close(struct verify_side *side)
{
    for (uint32_t i = 0; i < VERIFY_SPANS; i++) {
        akv_mem_free(side->mem[i]);
        side->mem[i] = NULL;
    }
    if (side->owned) {
        akv_queue_destroy(side->queue);
        akv_device_close(side->device);
    }
    side->device = NULL;
    side->queue = NULL;
    side->owned = false;
}

/* ---- cases ---- */

static bool name_chosen(const struct verify *v)
{
    return !v->only || strcmp(v->only, v->name) == 0;
}

bool verify_case(struct verify *v, uint64_t elements, const char *format, ...)
{
    va_list arguments;
    int used = snprintf(v->name, sizeof v->name, "%s/%s/", akv_kernels[v->kernel].name,
                        v->format ? v->format : "-");
    va_start(arguments, format);
    vsnprintf(v->name + used, sizeof v->name - (size_t)used, format, arguments);
    va_end(arguments);
    akv_progress_step(&v->progress, v->work_done, v->name);
    v->work_done += elements;
    return v->faults == 0 && name_chosen(v);
}

void verify_replay_line(const struct verify *v, const struct verify_target *target)
{
    static const char *const plants[] = {"", "tie", "contract", "store", "stride"};
    fprintf(stderr, "  replay: anykv verify --device %s", target->label);
    if (target->isa)
        fprintf(stderr, " --isa %s", target->isa);
    fprintf(stderr, " --seed %" PRIu64 " --elements %" PRIu64 " --kernel %s --case %s", v->seed,
            v->elements, akv_kernels[v->kernel].name, v->name);
    if (target->plant)
        fprintf(stderr, " --plant %s", plants[target->plant]);
    fprintf(stderr, "\n");
}

void verify_failed(struct verify *v, uint32_t t, const char *format, ...)
{
    struct verify_row *row = &v->row[t];
    row->failures++;
    if (row->failures > 1)
        return;
    akv_progress_hide(&v->progress);
    fprintf(stderr, "anykv verify: %s on %s%s%s: ", v->name, v->target[t].label,
            v->target[t].isa ? " " : "", v->target[t].isa ? v->target[t].isa : "");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    verify_replay_line(v, &v->target[t]);
}

bool verify_target_runs(struct verify *v, uint32_t t, const void *params)
{
    struct verify_target *target = &v->target[t];
    struct verify_row *row = &v->row[t];
    if (target->skip[0]) {
        memcpy(row->skipped, target->skip, sizeof row->skipped);
        return false;
    }
    if (target->planted)
        return v->kernel == AKV_K_ENCODE;
    struct akv_check check = {0};
    akv_kernel_check(target->side[0].device, v->kernel, params, &check);
    if (!check.supported) {
        snprintf(row->skipped, sizeof row->skipped, "%s%s%s", row->cases ? v->name : "",
                 row->cases ? ": " : "", check.reason ? check.reason : "refused without a reason");
        return false;
    }
    if (akv_kernels[v->kernel].class_ == AKV_CLASS_EXACT && check.class_ != AKV_CLASS_EXACT) {
        verify_failed(v, t, "the device calls an EXACT kernel BOUNDED");
        return false;
    }
    return true;
}

/* ---- one launch ---- */

static uint64_t span_base(const struct verify_side *side, uint32_t shape)
{
    uint64_t step = side->device->info.align < 16 ? 16 : side->device->info.align;
    uint64_t base = (VERIFY_GUARD + step - 1) / step * step;
    return shape == 0 ? base : base + step;
}

static bool scratch_reserve(struct verify *v, uint64_t bytes)
{
    if (bytes <= v->scratch_bytes)
        return true;
    akv_free(v->context, v->scratch);
    v->scratch_bytes = 0;
    v->scratch = akv_alloc(v->context, bytes + bytes / 2, 1);
    if (!v->scratch)
        return false;
    v->scratch_bytes = bytes + bytes / 2;
    return true;
}

/* Writes guard, content, guard into the span's memory, which grows if it must. */
static anykv_status span_fill(struct verify *v, struct verify_side *side, uint32_t i, uint64_t base,
                              const struct verify_span *span)
{
    uint64_t total = base + span->bytes + VERIFY_GUARD;
    if (!side->mem[i] || side->mem[i]->bytes < total) {
        akv_mem_free(side->mem[i]);
        side->mem[i] = NULL;
        anykv_status status =
            akv_mem_alloc(side->device, total + total / 2 + 4096, AKV_MEM_DEVICE, &side->mem[i]);
        if (status != ANYKV_OK)
            return status;
    }
    if (!scratch_reserve(v, total))
        return ANYKV_E_MEMORY;
    verify_fill_pattern(v->scratch, base);
    if (span->data)
        memcpy(v->scratch + base, span->data, span->bytes);
    else
        verify_fill_pattern(v->scratch + base, span->bytes);
    verify_fill_pattern(v->scratch + base + span->bytes, VERIFY_GUARD);
    struct akv_span all = {side->mem[i], 0, total};
    return akv_queue_put(side->queue, all, v->scratch);
}

struct found {
    uint64_t differ;
    bool first;
    uint32_t span;
    int64_t offset; /* from the span's start: negative or beyond its end in the guards */
    uint8_t expected, got;
};

static void compare_part(struct found *found, uint32_t span, int64_t at, const uint8_t *got,
                         const uint8_t *expected, uint64_t bytes)
{
    if (expected && memcmp(got, expected, bytes) == 0)
        return;
    for (uint64_t i = 0; i < bytes; i++) {
        uint8_t want = expected ? expected[i] : verify_pattern(i);
        if (got[i] == want)
            continue;
        if (!found->first) {
            found->first = true;
            found->span = span;
            found->offset = at + (int64_t)i;
            found->expected = want;
            found->got = got[i];
        }
        found->differ++;
    }
}

/* Fetches a span with its guards and compares all three parts. */
static anykv_status span_check(struct verify *v, struct verify_side *side, uint32_t i,
                               uint64_t base, const struct verify_launch *launch,
                               struct found *found)
{
    const struct verify_span *span = &launch->span[i];
    struct akv_span all = {side->mem[i], 0, base + span->bytes + VERIFY_GUARD};
    anykv_status status = akv_queue_get(side->queue, v->scratch, all);
    if (status == ANYKV_OK)
        status = akv_queue_wait(side->queue, UINT64_MAX);
    if (status != ANYKV_OK)
        return status;
    compare_part(found, i, -(int64_t)base, v->scratch, NULL, base);
    const void *expect = span->expect ? span->expect : span->data;
    if (expect != verify_any)
        compare_part(found, i, 0, v->scratch + base, expect, span->bytes);
    compare_part(found, i, (int64_t)span->bytes, v->scratch + base + span->bytes, NULL,
                 VERIFY_GUARD);
    if (launch->result[i])
        memcpy(launch->result[i], v->scratch + base, span->bytes);
    return ANYKV_OK;
}

/* The planted kernel runs where the queue would have run it: on the CPU device's own memory. */
static anykv_status run_planted(struct verify_side *side, const struct verify_target *target,
                                const struct verify_launch *launch, uint64_t base)
{
    akv_encode_params params = *(const akv_encode_params *)launch->params;
    params.flags |= target->plant << AKV_FLAG_PLANT_SHIFT;
    struct akv_cpu_args args = {.params = &params, .workers = 1};
    anykv_status status = akv_queue_wait(side->queue, UINT64_MAX);
    for (uint32_t i = 0; i < AKV_MAX_ARGS; i++) {
        if (launch->span[i].bytes == 0)
            continue;
        args.arg[i] = (uint8_t *)akv_mem_map(side->mem[i]) + base;
        args.arg_bytes[i] = launch->span[i].bytes;
    }
    for (uint32_t phase = 0; phase < target->planted->phases; phase++)
        target->planted->run(&args, phase, 0, target->planted->items(&args, phase));
    return status;
}

static anykv_status run_queued(struct verify_side *side, enum akv_kernel_id kernel,
                               const struct verify_launch *launch, uint64_t base)
{
    struct akv_launch call = {.kernel = kernel, .params = launch->params, .slabs = launch->slabs};
    for (uint32_t i = 0; i < VERIFY_SPANS; i++) {
        struct akv_span *span = i < AKV_MAX_ARGS ? &call.arg[i] : &call.slab[i - AKV_MAX_ARGS];
        if (launch->span[i].bytes != 0)
            *span = (struct akv_span){side->mem[i], base, launch->span[i].bytes};
    }
    fenv_t saved;
    if (side->odd_float)
        odd_float_begin(&saved);
    anykv_status status = akv_kernel_launch(side->queue, &call);
    if (status == ANYKV_OK)
        status = akv_queue_wait(side->queue, UINT64_MAX);
    if (side->odd_float)
        fesetenv(&saved);
    return status;
}

static void print_mismatch(struct verify *v, const struct verify_target *target, uint32_t shape,
                           const struct verify_launch *launch, const struct found *found)
{
    akv_progress_hide(&v->progress);
    bool slab = found->span >= AKV_MAX_ARGS;
    fprintf(stderr, "anykv verify: %s on %s%s%s, shape %" PRIu32 ", %s %" PRIu32, v->name,
            target ? target->label : "the reference", target && target->isa ? " " : "",
            target && target->isa ? target->isa : "", shape, slab ? "slab" : "argument",
            slab ? found->span - AKV_MAX_ARGS : found->span);
    if (found->offset < 0)
        fprintf(stderr, ", guard %" PRId64 " bytes before it", -found->offset);
    else if ((uint64_t)found->offset >= launch->span[found->span].bytes)
        fprintf(stderr, ", guard byte %" PRIu64 " behind its end",
                (uint64_t)found->offset - launch->span[found->span].bytes);
    else
        fprintf(stderr, ", byte %" PRId64 " of %" PRIu64, found->offset,
                launch->span[found->span].bytes);
    fprintf(stderr, ": expected 0x%02x, got 0x%02x (%" PRIu64 " bytes differ)\n", found->expected,
            found->got, found->differ);
    bool inside = found->offset >= 0 && (uint64_t)found->offset < launch->span[found->span].bytes;
    if (inside && launch->explain)
        launch->explain(launch, found->span, (uint64_t)found->offset);
    if (target)
        verify_replay_line(v, target);
}

anykv_status verify_launch_on(struct verify *v, struct verify_side *side, uint32_t shape,
                              const struct verify_target *target, enum akv_kernel_id kernel,
                              const struct verify_launch *launch, bool print, uint64_t *differ_out)
{
    uint64_t base = span_base(side, shape);
    anykv_status status = ANYKV_OK;
    for (uint32_t i = 0; i < VERIFY_SPANS && status == ANYKV_OK; i++)
        if (launch->span[i].bytes != 0)
            status = span_fill(v, side, i, base, &launch->span[i]);
    if (status == ANYKV_OK)
        status = target && target->planted ? run_planted(side, target, launch, base)
                                           : run_queued(side, kernel, launch, base);
    struct found found = {0};
    for (uint32_t i = 0; i < VERIFY_SPANS && status == ANYKV_OK; i++)
        if (launch->span[i].bytes != 0)
            status = span_check(v, side, i, base, launch, &found);
    if (status != ANYKV_OK)
        return status;
    if (found.first && print)
        print_mismatch(v, target, shape, launch, &found);
    *differ_out = found.differ;
    return ANYKV_OK;
}

bool verify_reference(struct verify *v, enum akv_kernel_id kernel,
                      const struct verify_launch *launch)
{
    uint64_t differ = 0;
    if (v->faults)
        return false;
    anykv_status status =
        verify_launch_on(v, &v->reference, 0, NULL, kernel, launch, true, &differ);
    if (status == ANYKV_OK && differ == 0)
        return true;
    v->faults++;
    if (status != ANYKV_OK)
        akv_cli_status("verify", v->name, status);
    return false;
}

void verify_compare(struct verify *v, uint64_t elements,
                    const struct verify_launch shape[VERIFY_SHAPES])
{
    for (uint32_t t = 0; t < v->targets && v->faults == 0; t++) {
        struct verify_target *target = &v->target[t];
        struct verify_row *row = &v->row[t];
        if (!verify_target_runs(v, t, shape[0].params))
            continue;
        uint64_t start = akv_now_ns();
        for (uint32_t s = 0; s < VERIFY_SHAPES; s++) {
            uint64_t differ = 0;
            anykv_status status = verify_launch_on(v, &target->side[s], s, target, v->kernel,
                                                   &shape[s], row->differ == 0, &differ);
            if (status != ANYKV_OK)
                verify_failed(v, t, "%s: %s", anykv_status_name(status), anykv_error_detail());
            row->differ += differ;
        }
        row->cases++;
        row->elements += elements;
        row->nanoseconds += akv_now_ns() - start;
    }
}
