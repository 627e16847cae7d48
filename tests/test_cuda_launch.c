/* SPDX-License-Identifier: Apache-2.0 */
/* Launches of the CUDA backend on a fake driver: names and shapes, the whole kernel set through the conformance
 * harness, and every driver call failed once. */
#include "house.h"
#if defined(AKV_WITH_CUDA)
#include "cuda_rig.h"
#include "tools/tools.h"

/* ---- shapes ---- */

static akv_attend_params attend(uint32_t sequences, uint32_t length, uint32_t tokens, uint32_t dim, uint32_t k,
                                uint32_t v)
{
    akv_attend_params p = {.kv_heads = 8,
                           .q_heads = 32,
                           .k_dim = dim,
                           .v_dim = dim,
                           .scale = 0.125f,
                           .max_tokens = tokens,
                           .max_sequences = sequences,
                           .max_length = length,
                           .block_tokens = 16};
    p.tiles.k_format[0] = p.tiles.v_format[0] = AKV_F16;
    p.tiles.k_format[1] = k;
    p.tiles.v_format[1] = v;
    return p;
}
static const struct fake_cuda_launch *last_launch(const struct fake_cuda *fake, uint64_t back)
{
    struct fake_cuda_state s;
    fake->state(&s);
    cr_assert(s.launches > back);
    return fake->launch(s.launches - 1 - back);
}
static void expect_shape(const struct fake_cuda_launch *l, const char *name, unsigned x, unsigned y, unsigned z,
                         unsigned threads)
{
    cr_expect_str_eq(l->name, name);
    cr_expect(l->grid[0] == x && l->grid[1] == y && l->grid[2] == z && l->block[0] == threads &&
                  l->block[1] == 1 && l->block[2] == 1,
              "%s: grid %u x %u x %u of %u threads, not %u x %u x %u of %u", name, l->grid[0], l->grid[1],
              l->grid[2], l->block[0], x, y, z, threads);
}
/* A driver that only writes launches down: their spans are addresses and nothing more. */
static struct rig set_up_silent(void)
{
    struct rig rig = rig_set_up();
    const struct fake_cuda_kernels silent = {rig_sizes, NULL};
    rig.fake->kernels(&silent);
    return rig;
}

Test(cuda_launch, shapes_of_decode)
{
    struct rig rig = set_up_silent();
    struct akv_mem *mem;
    OK(akv_mem_alloc(rig.device, 8192, AKV_MEM_DEVICE, &mem));
    akv_attend_params p = attend(64, 8192, 1, 128, AKV_N4, AKV_N4);
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &p, .slabs = 2};
    for (uint32_t i = 0; i < AKV_MAX_ARGS; i++)
        if (i != 4)
            launch.arg[i] = (struct akv_span){mem, 256u * i, 256};
    launch.slab[1] = (struct akv_span){mem, 4096, 4096};
    OK(akv_cuda_launch(rig.queue, &launch));
    const struct fake_cuda_launch *l = last_launch(rig.fake, 0);
    expect_shape(l, "akv_k_attend_n4_n4_128", 1, 8, 64, 512);
    cr_expect(l->shared == 226u * 1024u && l->stream == ((struct akv_cuda_queue *)rig.queue)->stream);
    /* What the kernel is given: the parameters by value, device addresses, its plan, zeroed counters. */
    const struct akv_cuda_args *args = l->param[1];
    CUdeviceptr base = ((struct akv_cuda_mem *)mem)->pointer, counters;
    memcpy(&counters, l->param[3], sizeof counters);
    cr_expect(memcmp(l->param[0], &p, sizeof p) == 0);
    for (uint32_t i = 0; i < AKV_MAX_ARGS; i++)
        cr_expect(args->arg[i] == (i == 4 ? 0 : base + 256u * i), "argument %u", i);
    cr_expect(args->slab[0] == 0 && args->slab[1] == base + 4096 && args->slab[2] == 0);
    cr_expect(counters == ((struct akv_cuda_queue *)rig.queue)->counters);
    for (uint32_t i = 0; i < AKV_CUDA_COUNTERS; i++)
        cr_assert(((const uint32_t *)(uintptr_t)counters)[i] == 0, "counter %u is not zero", i);
    /* One long sequence is split until the card is full. */
    p = attend(1, 131072, 1, 128, AKV_I8, AKV_I8);
    OK(akv_cuda_launch(rig.queue, &launch));
    expect_shape(last_launch(rig.fake, 0), "akv_k_attend_i8_i8_128", 16, 8, 1, 512);
    cr_expect(((const struct akv_cuda_plan *)last_launch(rig.fake, 0)->param[2])->splits == 16);
    p = attend(16, 8192, 1, 256, AKV_F16, AKV_F16);
    OK(akv_cuda_launch(rig.queue, &launch));
    expect_shape(last_launch(rig.fake, 0), "akv_k_attend_f16_256", 1, 8, 16, 128);
    /* Rows less their mean have kernels of their own, with warps of their own; others take the general one. */
    p = attend(16, 8192, 1, 128, AKV_I8, AKV_N4);
    p.k_flags = AKV_FLAG_MAP;
    OK(akv_cuda_launch(rig.queue, &launch));
    expect_shape(last_launch(rig.fake, 0), "akv_k_attend_map_i8_n4_128", 1, 8, 16, 11 * 32);
    p.flags = AKV_ATTEND_PRECISE;
    OK(akv_cuda_launch(rig.queue, &launch));
    expect_shape(last_launch(rig.fake, 0), "akv_k_attend", 1, 8, 16, 128);
    /* A bound shrinks the grid, not the plan: results may not depend on what else is in a step. */
    struct akv_cuda_plan wide, narrow;
    p = attend(64, 131072, 4, 64, AKV_I8, AKV_N4);
    OK(akv_cuda_launch(rig.queue, &launch));
    l = last_launch(rig.fake, 0);
    expect_shape(l, "akv_k_attend_i8_n4_64", 32, 8, 64, 512);
    memcpy(&wide, l->param[2], sizeof wide);
    p.bound_sequences = 3;
    p.bound_seq_tokens = 1;
    OK(akv_cuda_launch(rig.queue, &launch));
    l = last_launch(rig.fake, 0);
    expect_shape(l, "akv_k_attend_i8_n4_64", 16, 8, 3, 512);
    memcpy(&narrow, l->param[2], sizeof narrow);
    cr_expect(memcmp(&wide, &narrow, sizeof wide) == 0);
    akv_mem_free(mem);
    rig_tear_down(&rig);
}

/* The same step again gives the same launch to the byte, whatever the descriptor holds: a captured graph
 * can be replayed after the descriptor was written anew.  The caller's parameters are not looked at later. */
Test(cuda_launch, what_a_graph_captures)
{
    struct rig rig = set_up_silent();
    struct akv_mem *mem;
    OK(akv_mem_alloc(rig.device, 4096, AKV_MEM_DEVICE, &mem));
    akv_attend_params *p = malloc(sizeof *p);
    cr_assert(p);
    *p = attend(4, 4096, 1, 128, AKV_N5, AKV_N4);
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = p};
    for (uint32_t i = 0; i < 3; i++)
        launch.arg[i] = (struct akv_span){mem, 1024u * i, 1024};
    OK(akv_cuda_prepare(rig.device, AKV_K_ATTEND, p));
    OK(akv_cuda_launch(rig.queue, &launch));
    OK(akv_queue_fill(rig.queue, launch.arg[0], 0x5A));
    rig.fake->fail_at(0, 0);
    OK(akv_cuda_launch(rig.queue, &launch));
    /* Nothing that a capture forbids: no allocation, no waiting, no loading. */
    cr_expect(rig.fake->calls() == 3, "%llu calls: push, launch, pop", (unsigned long long)rig.fake->calls());
    akv_attend_params kept = *p;
    memset(p, 0xEE, sizeof *p);
    free(p);
    const struct fake_cuda_launch *a = last_launch(rig.fake, 1), *b = last_launch(rig.fake, 0);
    cr_expect(memcmp(a->grid, b->grid, sizeof a->grid) == 0 && a->shared == b->shared &&
              strcmp(a->name, b->name) == 0);
    cr_expect(memcmp(b->param[0], &kept, sizeof kept) == 0);
    cr_expect(memcmp(a->param[1], b->param[1], sizeof(struct akv_cuda_args)) == 0);
    cr_expect(memcmp(a->param[2], b->param[2], sizeof(struct akv_cuda_plan)) == 0);
    const struct akv_cuda_args *args = b->param[1];
    for (uint32_t i = 0; i < AKV_MAX_ARGS; i++) {
        CUdeviceptr base = ((struct akv_cuda_mem *)mem)->pointer;
        cr_expect(i < 3 ? args->arg[i] == base + 1024u * i : args->arg[i] == 0, "argument %u", i);
    }
    akv_mem_free(mem);
    rig_tear_down(&rig);
}

Test(cuda_launch, shapes_of_prefill)
{
    struct rig rig = set_up_silent();
    static const uint32_t dims[] = {64, 128, 256};
    static const char *const names[] = {"akv_k_prefill_2", "akv_k_prefill_4", "akv_k_prefill_8"};
    for (uint32_t d = 0; d < 3; d++) {
        akv_attend_params p = attend(1, 4096, 2048, dims[d], AKV_I8, AKV_N4);
        struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &p};
        OK(akv_cuda_launch(rig.queue, &launch));
        const struct fake_cuda_launch *few = last_launch(rig.fake, 1), *many = last_launch(rig.fake, 0);
        const struct akv_cuda_plan *plan = few->param[2];
        uint32_t tile = dims[d] == 256 ? 32 : 64, columns = dims[d] == 256 ? 64 : 128;
        uint32_t halves = (columns + 4 * tile) * dims[d] * 2;
        /* Sequences with few queries take the first launch, split; the others the second. */
        cr_expect(strncmp(few->name, "akv_k_attend_i8_n4_", 19) == 0, "%s", few->name);
        cr_expect(plan->most_columns == 16 && few->grid[0] == 2 * plan->splits);
        /* Heads first, so that the longest columns of all of them start before shorter ones. */
        expect_shape(many, names[d], 8, 2048 * 4 / columns, 1, 128);
        cr_expect(many->shared >= halves && many->shared <= 226u * 1024u, "%u bytes", many->shared);
        cr_expect(memcmp(many->param[2], plan, sizeof *plan) == 0);
    }
    /* A single token has no second launch. */
    struct fake_cuda_state before, after;
    akv_attend_params p = attend(1, 4096, 2048, 128, AKV_I8, AKV_N4);
    p.bound_seq_tokens = 1;
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &p};
    rig.fake->state(&before);
    OK(akv_cuda_launch(rig.queue, &launch));
    rig.fake->state(&after);
    cr_expect(after.launches == before.launches + 1);
    /* A last column tile that is not full has a thread block, too. */
    p = attend(1, 4096, 2049, 128, AKV_I8, AKV_N4);
    OK(akv_cuda_launch(rig.queue, &launch));
    expect_shape(last_launch(rig.fake, 0), "akv_k_prefill_4", 8, 2048 * 4 / 128 + 1, 1, 128);
    /* Rows less their mean, or by a matrix, take the decode kernel for all. */
    for (int side = 0; side < 2; side++) {
        p = attend(1, 4096, 2048, 128, AKV_I8, AKV_N4);
        *(side ? &p.v_flags : &p.k_flags) = AKV_FLAG_MAP;
        rig.fake->state(&before);
        OK(akv_cuda_launch(rig.queue, &launch));
        rig.fake->state(&after);
        cr_expect(after.launches == before.launches + 1, "side %d", side);
        cr_expect_str_eq(last_launch(rig.fake, 0)->name, "akv_k_attend_map_i8_n4_128");
    }
    /* So many tokens that a grid cannot hold their columns have one launch. */
    for (uint32_t more = 0; more < 2; more++) {
        p = attend(1, 4096, 65535u * 128u / 4u + more, 128, AKV_I8, AKV_N4);
        rig.fake->state(&before);
        OK(akv_cuda_launch(rig.queue, &launch));
        rig.fake->state(&after);
        cr_expect(after.launches == before.launches + (more ? 1u : 2u), "%u", more);
    }
    /* Masks, precise launches and other geometries take the general kernel, alone. */
    for (int i = 0; i < 4; i++) {
        p = attend(1, 4096, 2048, 128, AKV_I8, AKV_N4);
        if (i == 0)
            p.flags = AKV_ATTEND_MASK;
        else if (i == 1)
            p.flags = AKV_ATTEND_PRECISE;
        else if (i == 2)
            p.block_tokens = 32;
        else
            p.k_dim = p.v_dim = 96;
        rig.fake->state(&before);
        OK(akv_cuda_launch(rig.queue, &launch));
        rig.fake->state(&after);
        cr_expect(after.launches == before.launches + 1);
        cr_expect_str_eq(last_launch(rig.fake, 0)->name, "akv_k_attend");
        cr_expect(last_launch(rig.fake, 0)->block[0] == 128);
    }
    rig_tear_down(&rig);
}

/* A card without code for the fast kernels: the general one, within its shared memory. */
Test(cuda_launch, plain_card)
{
    setenv("FAKE_CUDA", "plain", 1);
    struct rig rig = set_up_silent();
    akv_attend_params p = attend(1, 4096, 2048, 128, AKV_N4, AKV_N4);
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &p};
    OK(akv_cuda_launch(rig.queue, &launch));
    cr_expect_str_eq(last_launch(rig.fake, 0)->name, "akv_k_attend");
    cr_expect(last_launch(rig.fake, 0)->shared <= 98u * 1024u);
    p.k_dim = 4096;
    struct akv_check check = {.supported = true};
    akv_cuda_check(rig.device, AKV_K_ATTEND, &p, &check);
    cr_expect(!check.supported && strstr(check.reason, "shared memory"));
    rig_tear_down(&rig);
}

Test(cuda_launch, grids_beyond_the_card)
{
    struct rig rig = set_up_silent();
    akv_attend_params p = attend(70000, 64, 1, 128, AKV_N4, AKV_N4);
    struct akv_launch launch = {.kernel = AKV_K_ATTEND, .params = &p};
    REFUSED(ANYKV_E_SHAPE, "70000", akv_cuda_launch(rig.queue, &launch));
    rig_tear_down(&rig);
}

/* ---- every family ---- */

/* The conformance harness on the fake card: what is tested is that each launch names the kernel that its
 * parameters mean, with the right spans, after the transfers before it.  The arithmetic is the CPU's. */
Test(cuda_launch, every_kernel_gets_what_it_needs, .timeout = 600)
{
    static const char *const families[] = {
        "akv_k_encode_n4_search", "akv_k_decode_n4", "akv_k_rotate", "akv_k_seal_k_n4", "akv_k_seal_v_n4",
        "akv_k_encode_n4_map", "akv_k_decode_n4_map", "akv_k_seal_k_n4_map", "akv_k_shift_n4_map", "akv_k_gather_map",
        "akv_k_append", "akv_k_gather", "akv_k_copy", "akv_k_attend", "akv_k_attend_n4_n4_128",
        "akv_k_shift_", "akv_k_reencode_k_", "akv_k_reencode_v_", "akv_k_score", "akv_k_mean", "akv_k_mass", "akv_k_select",
        "akv_k_compact", "akv_k_bx16_count", "akv_k_bx16_pieces", "akv_k_bx16_records", "akv_k_bx16_escapes",
        "akv_k_bx16_decode", "akv_k_rans_count", "akv_k_rans_segments_4_0_0", "akv_k_rans_segments_8_0_8",
        "akv_k_lowrank_project", "akv_k_lowrank_read", "akv_k_lowrank_rows", "akv_k_multiply", "akv_k_rans_records", "akv_k_rans_move", "akv_k_rans_decode_4_0_0", "akv_k_rans_decode_8_0_8"};
    static const char *const runs[][2] = {{"[!ab]*", "N4*"}, {"bx16*", "*"}, {"rotate", "*"}, {"copy", "*"}, {"select", "*"}, {"lowrank*", "*"}, {"multiply", "*"},
                                          {"append", "*"},  {"attend", "N4/N4"}};
    bool seen[sizeof families / sizeof *families] = {false};
    const struct fake_cuda *fake = rig_use_fake();
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        const char *argv[] = {"verify",     "--device", "cuda",     "--require", "cuda",     "--elements",
                              "10",         "--kernel", runs[r][0], "--format",  runs[r][1], NULL};
        fake->reset();
        fake->defer(1);
        int code = akv_tool_verify(runs[r][1][0] == '*' ? 9 : 11, (char **)(uintptr_t)argv);
        cr_expect(code == 0, "verify --kernel %s: exit status %d", runs[r][0], code);
        rig_expect_clean(fake, runs[r][0]);
        const struct fake_cuda_launch *l;
        for (uint64_t i = 0; (l = fake->launch(i)); i++)
            for (size_t f = 0; f < sizeof families / sizeof *families; f++)
                seen[f] |= strncmp(l->name, families[f], strlen(families[f])) == 0;
    }
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        cr_expect(seen[f], "%s was not launched", families[f]);
}

/* ---- every driver call failed once ---- */

static anykv_status use(struct akv_device *device, struct akv_queue *queue)
{
    float rows[4 * 64] = {1.0f, 2.0f}, back[4 * 64];
    struct akv_mem *mem = NULL, *pinned = NULL;
    struct akv_event *event = NULL;
    akv_rotate_params rotate = {.rows = 4, .dim = 64, .flags = AKV_FLAG_ROTATE};
    akv_attend_params decode = attend(1, 64, 1, 128, AKV_N4, AKV_N4);
    uint64_t ns, total, unused;
    bool done;
    anykv_status status = akv_mem_alloc(device, 2 * sizeof rows, AKV_MEM_DEVICE, &mem);
    if (!status)
        status = akv_mem_alloc(device, sizeof rows, AKV_MEM_PINNED, &pinned);
    if (!status)
        status = akv_event_create(device, &event);
    struct akv_span in = {mem, 0, sizeof rows}, out = {mem, sizeof rows, sizeof rows};
    struct akv_launch launch = {.kernel = AKV_K_ROTATE, .params = &rotate, .arg = {in, out}};
    if (!status)
        status = akv_device_memory(device, &total, &unused);
    if (!status)
        status = akv_queue_put(queue, in, rows);
    if (!status)
        status = akv_queue_fill(queue, out, 0);
    if (!status)
        status = akv_kernel_launch(queue, &launch);
    if (!status)
        status = akv_cuda_prepare(device, AKV_K_ATTEND, &decode);
    if (!status)
        status = akv_event_record(event, queue);
    if (!status)
        status = akv_event_await(event, queue);
    if (!status)
        status = akv_queue_copy(queue, (struct akv_span){pinned, 0, sizeof rows}, out);
    if (!status)
        status = akv_queue_get(queue, back, out);
    anykv_status waited = akv_queue_wait(queue, UINT64_MAX); /* reads land in our frame */
    if (!status)
        status = waited;
    if (!status)
        status = akv_queue_wait(queue, 1000000000u);
    if (!status)
        status = akv_event_wait(event, UINT64_MAX);
    if (!status)
        status = akv_event_query(event, &done);
    if (!status)
        status = akv_event_elapsed(event, event, &ns);
    if (waited)
        (void)akv_queue_wait(queue, UINT64_MAX);
    if (event)
        akv_event_destroy(event);
    if (pinned)
        akv_mem_free(pinned);
    if (mem)
        akv_mem_free(mem);
    return status;
}

static anykv_status scenario(void)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    status = akv_device_open(context, "cuda", &options, &device); /* with its known-answer test */
    if (!status) {
        status = akv_queue_create(device, NULL, &queue);
        if (!status) {
            status = use(device, queue);
            akv_queue_destroy(queue);
        }
        akv_device_close(device);
    }
    anykv_context_destroy(context);
    return status;
}

/* A failure of these need not be an error: they release, restore, describe, or choose between ways. */
static bool may_be_quiet(const char *name)
{
    static const char *const names[] = {
        "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2", "cuMemFree_v2",      "cuMemFreeHost",
        "cuStreamDestroy_v2", "cuEventDestroy_v2",            "cuModuleUnload",    "cuDeviceGetName",
        "cuDeviceGetUuid",    "cuCtxGetCurrent",              "cuCtxPushCurrent_v2", "cuStreamSynchronize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

Test(cuda_launch, every_call_failed_once, .timeout = 900)
{
    static const int codes[] = {700, AKV_CU_OUT_OF_MEMORY};
    const struct fake_cuda *fake = rig_use_fake();
    cr_assert(scenario() == ANYKV_OK, "%s", anykv_error_detail());
    fake->reset();
    cr_assert(scenario() == ANYKV_OK, "%s", anykv_error_detail());
    const uint64_t sites = fake->calls();
    struct akv_device_info *infos;
    uint32_t count;
    anykv_context *context = house_context();
    fake->reset();
    OK(akv_devices_list(context, &infos, &count));
    const uint64_t listing = fake->calls(); /* the first calls of opening: they may fail for other devices */
    akv_free(context, infos);
    anykv_context_destroy(context);
    uint64_t quiet = 0;
    cr_assert(sites > 300, "%llu", (unsigned long long)sites);
    for (size_t c = 0; c < 2; c++)
        for (uint64_t n = 1; n <= sites; n++) {
            char when[120], failed[64];
            fake->reset();
            fake->defer((int)(n & 1));
            fake->fail_at(n, codes[c]);
            anykv_status status = scenario();
            snprintf(failed, sizeof failed, "%s", fake->failed());
            snprintf(when, sizeof when, "call %llu of %llu (%s) failed with %d", (unsigned long long)n,
                     (unsigned long long)sites, failed, codes[c]);
            cr_expect(failed[0], "%s: not reached", when);
            quiet += status == ANYKV_OK;
            if (status == ANYKV_OK) {
                cr_expect(n <= listing || may_be_quiet(failed), "%s, and nobody said so", when);
            } else {
                /* What describes a device says why in its own words. */
                bool described = strncmp(failed, "cuDevice", 8) == 0;
                /* After a loss, later calls say that it was. */
                bool lost = codes[c] == 700 &&
                            strstr(anykv_error_detail(), "is lost: CUDA_ERROR_ILLEGAL_ADDRESS") != NULL;
                anykv_status want = codes[c] == AKV_CU_OUT_OF_MEMORY ? ANYKV_E_MEMORY : ANYKV_E_DEVICE;
                cr_expect(status == want || (lost && status == ANYKV_E_DEAD) ||
                              (described && status == ANYKV_E_DEVICE),
                          "%s: %s: %s", when, anykv_status_name(status), anykv_error_detail());
                cr_expect(strstr(anykv_error_detail(), "cuda: ") || lost || described, "%s: \"%s\"", when,
                          anykv_error_detail());
            }
            /* A context that cannot be entered cannot be tidied up: it has gone, and all in it. */
            struct fake_cuda_state s;
            fake->state(&s);
            if (strcmp(failed, "cuCtxPushCurrent_v2") == 0 && s.lost) {
                cr_expect(akv_alloc_live() == 0 && s.stack == 0 && s.retained == 0 && s.misused == 0, "%s", when);
                continue;
            }
            rig_expect_clean(fake, when);
        }
    cr_log_info("%llu calls, %llu failures without effect", (unsigned long long)sites, (unsigned long long)quiet);
}

static anykv_status allocating(void)
{
    return scenario();
}
Test(cuda_launch, allocations_failed_once, .timeout = 900)
{
    const struct fake_cuda *fake = rig_use_fake();
    house_fail_allocations("a CUDA device", allocating);
    rig_expect_clean(fake, "allocations failed");
}

/* A card whose arithmetic is wrong is refused: here decode does nothing. */
static void run_all_but_decode(const struct fake_cuda_launch *launch)
{
    if (strncmp(launch->name, "akv_k_decode", 12) != 0)
        rig_run(launch);
}
Test(cuda_launch, known_answers)
{
    const struct fake_cuda *fake = rig_use_fake();
    const struct fake_cuda_kernels wrong = {rig_sizes, run_all_but_decode};
    fake->kernels(&wrong);
    REFUSED(ANYKV_E_DEVICE, "known-answer test of I8", scenario());
    rig_expect_clean(fake, "after a wrong answer");
}

#else
Test(cuda_launch, not_built)
{
    cr_skip_test("this build has no CUDA backend");
}
#endif
