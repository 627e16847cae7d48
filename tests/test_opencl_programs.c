/* SPDX-License-Identifier: Apache-2.0 */
/* OpenCL programs: the cache on disk, builds that fail, and every OpenCL call failed once. */
#include "house.h"
#if defined(AKV_WITH_OPENCL)
#include "opencl_rig.h"
#include "lib/kernel/attend.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static unsigned built, damaged, uncached;

static void listen_to(void *user, int level, const char *message)
{
    (void)user;
    (void)level;
    built += strstr(message, "opencl: built") != NULL;
    damaged += strstr(message, "is damaged") != NULL;
    uncached += strstr(message, "no program cache") != NULL;
}

/* Opens the device, which builds the programs of the known-answer test; how many were built. */
static unsigned open_once(void)
{
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    anykv_context *context;
    struct akv_device *device;
    options.log = listen_to;
    options.log_level = ANYKV_LOG_INFO;
    built = damaged = uncached = 0;
    OK(anykv_context_create(&options, &context));
    OK(rig_open(context, &device));
    akv_device_close(device);
    anykv_context_destroy(context);
    return built;
}

/* Does something to every program in the cache. */
static unsigned each_file(const char *cache, void (*act)(int folder, const char *name))
{
    char path[128];
    unsigned count = 0;
    snprintf(path, sizeof path, "%s/anykv", cache);
    DIR *folder = opendir(path);
    cr_assert(folder, "%s", path);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strstr(entry->d_name, ".clb")) {
            count++;
            if (act)
                act(dirfd(folder), entry->d_name);
        } else {
            cr_expect(entry->d_name[0] == '.' && strlen(entry->d_name) <= 2, "%s is left over",
                      entry->d_name);
        }
    closedir(folder);
    return count;
}

static void flip_at(int folder, const char *name, off_t from_end, off_t from_start)
{
    uint8_t byte;
    int file = openat(folder, name, O_RDWR);
    off_t at = from_end ? lseek(file, -from_end, SEEK_END) : lseek(file, from_start, SEEK_SET);
    cr_assert(file >= 0 && pread(file, &byte, 1, at) == 1);
    byte ^= 0x10;
    cr_assert(pwrite(file, &byte, 1, at) == 1);
    close(file);
}
static void flip_last(int folder, const char *name)
{
    flip_at(folder, name, 1, 0);
}
static void flip_magic(int folder, const char *name)
{
    flip_at(folder, name, 0, 3);
}
static void flip_length(int folder, const char *name)
{
    flip_at(folder, name, 0, 9);
}
static void flip_key(int folder, const char *name)
{
    flip_at(folder, name, 0, 20);
}
static void flip_sum(int folder, const char *name)
{
    flip_at(folder, name, 0, 50);
}
static void cut_to(int folder, const char *name, off_t bytes)
{
    int file = openat(folder, name, O_RDWR);
    cr_assert(file >= 0 && ftruncate(file, bytes) == 0);
    close(file);
}
static void empty(int folder, const char *name)
{
    cut_to(folder, name, 0);
}
static void cut_header(int folder, const char *name)
{
    cut_to(folder, name, 79);
}
static void cut_body(int folder, const char *name)
{
    cut_to(folder, name, 1000);
}
static void lengthen(int folder, const char *name)
{
    int file = openat(folder, name, O_WRONLY | O_APPEND);
    cr_assert(file >= 0 && write(file, "more", 4) == 4);
    close(file);
}
static void make_link(int folder, const char *name)
{
    char target[128];
    snprintf(target, sizeof target, "%s.moved", name);
    cr_assert(renameat(folder, name, folder, ".moved") == 0 || unlinkat(folder, name, 0) == 0);
    cr_assert(symlinkat(".moved", folder, name) == 0);
}
static void check_mode(int folder, const char *name)
{
    struct stat about;
    cr_assert(fstatat(folder, name, &about, AT_SYMLINK_NOFOLLOW) == 0);
    cr_expect(S_ISREG(about.st_mode) && (about.st_mode & 0777) == 0600, "%s has mode %o", name,
              (unsigned)about.st_mode);
}

Test(opencl_programs, cache)
{
    static const struct {
        const char *name;
        void (*act)(int folder, const char *name);
    } harms[] = {
        {"last byte", flip_last},  {"magic", flip_magic},   {"length", flip_length},
        {"key", flip_key},         {"checksum", flip_sum},  {"empty", empty},
        {"in header", cut_header}, {"in binary", cut_body}, {"longer", lengthen},
    };
    rig_need_device();
    const char *cache = rig_cache_folder();
    char path[128];
    struct stat about;
    unsigned programs = open_once();
    cr_assert(programs > 0);
    cr_expect(each_file(cache, check_mode) == programs);
    snprintf(path, sizeof path, "%s/anykv", cache);
    cr_assert(stat(path, &about) == 0);
    cr_expect((about.st_mode & 0777) == 0700, "mode %o", (unsigned)about.st_mode);
    cr_expect(open_once() == 0 && damaged == 0, "a warm start builds %u programs", built);
    for (size_t i = 0; i < sizeof harms / sizeof *harms; i++) {
        cr_assert(each_file(cache, harms[i].act) == programs);
        cr_expect(open_once() == programs && damaged == programs, "%s: %u built, %u damaged",
                  harms[i].name, built, damaged);
        cr_expect(open_once() == 0, "%s: the cache was not mended", harms[i].name);
    }
}

Test(opencl_programs, cache_that_is_not_ours)
{
    rig_need_device();
    const char *cache = rig_cache_folder();
    char path[128];
    snprintf(path, sizeof path, "%s/anykv", cache);
    cr_assert(mkdir(path, 0755) == 0 && chmod(path, 0755) == 0);
    unsigned programs = open_once();
    cr_expect(programs > 0 && uncached > 0);
    cr_expect(each_file(cache, NULL) == 0, "nothing is written to a folder that others can read");
    cr_assert(rmdir(path) == 0 && symlink("/tmp", path) == 0);
    cr_expect(open_once() == programs && uncached > 0, "a link is no folder of ours");
    cr_assert(unlink(path) == 0 && mkdir(path, 0700) == 0);
    cr_expect(open_once() == programs && uncached == 0);
    each_file(cache, make_link);
    cr_expect(open_once() == programs, "a linked file is not read");
}

Test(opencl_programs, build_that_fails)
{
    rig_use_fake();
    rig_need_device();
    rig_cache_folder();
    setenv("FAKE_OPENCL", "refusing", 1);
    anykv_context *context = house_context();
    struct akv_device *device;
    REFUSED(ANYKV_E_DEVICE, "CL_BUILD_PROGRAM_FAILURE", rig_open(context, &device));
    cr_expect(strstr(anykv_error_detail(), "program quant"), "%s", anykv_error_detail());
    anykv_context_destroy(context);
    cr_expect(akv_alloc_live() == 0);
}

/* ---- every call failed once ---- */

static anykv_status use_queue(struct akv_device *device, struct akv_queue *queue)
{
    /* A copy that is on its way when a later call fails still reads and writes them. */
    static uint8_t bytes[256] = {1, 2, 3}, back[256];
    struct akv_mem *mem = NULL, *pinned = NULL;
    struct akv_event *event = NULL;
    struct akv_span span;
    uint64_t ns;
    bool done;
    anykv_status status = akv_mem_alloc(device, sizeof bytes, AKV_MEM_DEVICE, &mem);
    span = (struct akv_span){mem, 0, sizeof bytes};
    if (status == ANYKV_OK)
        status = akv_mem_alloc(device, sizeof bytes, AKV_MEM_PINNED, &pinned);
    if (status == ANYKV_OK)
        status = akv_event_create(device, &event);
    if (status == ANYKV_OK)
        status = akv_queue_put(queue, span, bytes);
    if (status == ANYKV_OK)
        status =
            akv_queue_copy(queue, (struct akv_span){pinned, 0, 64}, (struct akv_span){mem, 0, 64});
    if (status == ANYKV_OK)
        status = akv_queue_fill(queue, (struct akv_span){mem, 128, 64}, 9);
    if (status == ANYKV_OK)
        status = akv_event_record(event, queue);
    if (status == ANYKV_OK)
        status = akv_event_await(event, queue);
    if (status == ANYKV_OK)
        status = akv_queue_get(queue, back, span);
    if (status == ANYKV_OK)
        status = akv_queue_flush(queue);
    if (status == ANYKV_OK && akv_event_fd(event) < 0)
        status = ANYKV_E_DEVICE;
    /* Reads land in our frame: the last wait is for the device itself. */
    anykv_status waited = akv_queue_wait(queue, UINT64_MAX);
    if (status == ANYKV_OK)
        status = waited;
    if (status == ANYKV_OK)
        status = akv_event_wait(event, UINT64_MAX);
    if (status == ANYKV_OK)
        status = akv_event_query(event, &done);
    if (status == ANYKV_OK)
        status = akv_event_elapsed(event, event, &ns);
    if (waited != ANYKV_OK)
        (void)akv_queue_wait(queue, UINT64_MAX);
    akv_event_destroy(event);
    akv_mem_free(pinned);
    akv_mem_free(mem);
    return status;
}

static anykv_status scenario(void)
{
    anykv_context *context;
    struct akv_device *device;
    struct akv_queue *queue;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status != ANYKV_OK)
        return status;
    status = rig_open(context, &device); /* the known-answer test uses puts, kernels and gets */
    if (status == ANYKV_OK) {
        status = akv_queue_create(device, NULL, &queue);
        if (status == ANYKV_OK) {
            status = use_queue(device, queue);
            akv_queue_destroy(queue);
        }
        akv_device_close(device);
    }
    anykv_context_destroy(context);
    return status;
}

Test(opencl_programs, every_call_failed_once, .timeout = 900)
{
    static const int codes[] = {CL_OUT_OF_RESOURCES, CL_OUT_OF_HOST_MEMORY};
    struct rig_fake fake = rig_use_fake();
    rig_need_device();
    rig_cache_folder();
    setenv("ANYKV_OPENCL_SHAPE", "cpu", 1); /* the shape that every device builds quickly */
    cr_assert(scenario() == ANYKV_OK, "%s", anykv_error_detail()); /* fills the cache */
    fake.fail_at(0, 0);
    cr_assert(scenario() == ANYKV_OK, "%s", anykv_error_detail());
    uint64_t sites = fake.calls(), quiet = 0;
    cr_assert(sites > 100, "%llu", (unsigned long long)sites);
    for (size_t c = 0; c < 2; c++)
        for (uint64_t n = 1 + c; n <= sites; n += 1 + c) {
            fake.fail_at(n, codes[c]);
            anykv_status status = scenario();
            fake.fail_at(0, 0);
            quiet += status == ANYKV_OK;
            cr_expect(status == ANYKV_OK || status == ANYKV_E_DEVICE || status == ANYKV_E_MEMORY ||
                          status == ANYKV_E_NOT_FOUND,
                      "call %llu of %llu: %s: %s", (unsigned long long)n, (unsigned long long)sites,
                      anykv_status_name(status), anykv_error_detail());
            cr_expect(status == ANYKV_OK || anykv_error_detail()[0], "call %llu: no detail",
                      (unsigned long long)n);
            cr_expect(akv_alloc_live() == 0, "call %llu of %llu leaks", (unsigned long long)n,
                      (unsigned long long)sites);
        }
    /* Releases, texts of the description and the program cache may fail without harm. */
    cr_log_info("%llu calls, %llu failures without effect", (unsigned long long)sites,
                (unsigned long long)quiet);
}

Test(opencl_programs, allocations_failed_once, .timeout = 900)
{
    rig_need_device();
    rig_cache_folder();
    setenv("ANYKV_OPENCL_SHAPE", "cpu", 1);
    cr_assert(scenario() == ANYKV_OK, "%s", anykv_error_detail());
    uint64_t live = akv_alloc_live();
    akv_alloc_fail_at(0, false);
    cr_assert(scenario() == ANYKV_OK);
    uint64_t sites = akv_alloc_count();
    for (uint64_t n = 1; n <= sites; n++) {
        akv_alloc_fail_at(n, false);
        anykv_status status = scenario();
        akv_alloc_fail_at(0, false);
        /* A cached program that cannot be read is built instead. */
        cr_expect(status == ANYKV_E_MEMORY || status == ANYKV_OK, "allocation %llu: %s",
                  (unsigned long long)n, anykv_status_name(status));
        cr_expect(akv_alloc_live() == live, "allocation %llu of %llu leaks", (unsigned long long)n,
                  (unsigned long long)sites);
    }
}

/* Which kernel decodes: integer products where device, formats and caller allow them; maps only with those. */
Test(opencl_programs, decode_attention)
{
    struct akv_cl_device device = {.shape = AKV_CL_SHAPE_GPU, .dots = true, .nv_options = true};
    akv_attend_params p = {.kv_heads = 8, .q_heads = 32, .k_dim = 128, .v_dim = 128, .block_tokens = 16,
                           .max_tokens = 16, .max_length = 8192, .pool.slabs = 2};
    struct akv_cl_plan plans[AKV_CL_PLANS];
    p.tiles.k_format[0] = p.tiles.v_format[0] = AKV_F16;
    p.tiles.k_format[1] = AKV_N5;
    p.tiles.v_format[1] = AKV_N4;
    p.k_flags = p.v_flags = AKV_FLAG_MAP;
    cr_expect(akv_cl_attend_shape(&device, &p).dot && akv_cl_attend_shape(&device, &p).one == 4);
    cr_expect(akv_cl_plans(&device, AKV_K_ATTEND, &p, plans) == 3);
    cr_expect(!strstr(plans[0].options, "AKV_DOT") && strstr(plans[1].options, " -DAKV_DOT") &&
                  strstr(plans[1].options, " -DAKV_MAP") && strstr(plans[1].options, " -DV1=7") &&
                  strstr(plans[1].options, " -DAKV_TOKENS=16"),
              "%s", plans[1].options);
    cr_expect(strstr(plans[0].options, " -DAKV_NOT_ONE") && !strstr(plans[1].options, " -DAKV_NOT_ONE"));
    p.k_flags = AKV_FLAG_ROTATE;
    p.block_tokens = 32;
    cr_expect(akv_cl_plans(&device, AKV_K_ATTEND, &p, plans) == 3);
    cr_expect(strstr(plans[1].options, " -DAKV_MAP") && !strstr(plans[1].options, " -DAKV_TOKENS"), "%s",
              plans[1].options);
    p.k_flags = AKV_FLAG_MAP;
    p.block_tokens = 16;
    device.shape = AKV_CL_SHAPE_CPU; /* has one program for all */
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && !akv_cl_attend_shape(&device, &p).one);
    cr_expect(akv_cl_plans(&device, AKV_K_ATTEND, &p, plans) == 2);
    device.shape = AKV_CL_SHAPE_GPU;
    p.flags = AKV_ATTEND_PRECISE;
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && !akv_cl_attend_shape(&device, &p).one);
    p.k_flags = p.v_flags = AKV_FLAG_ROTATE;
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && akv_cl_attend_shape(&device, &p).one == 4);
    p.flags = 0;
    cr_expect(akv_cl_attend_shape(&device, &p).dot);
    p.tiles.k_format[1] = AKV_N6;
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && akv_cl_attend_shape(&device, &p).one == 4);
    p.tiles.k_format[1] = AKV_I8;
    p.v_dim = 64;
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && akv_cl_attend_shape(&device, &p).one == 4);
    p.v_dim = 128;
    device.dots = false;
    cr_expect(!akv_cl_attend_shape(&device, &p).dot && akv_cl_attend_shape(&device, &p).one == 4);
    /* Loops that must be short are so however long the sequence and however many ask. */
    device.short_loops = true;
    struct akv_cl_attend shape = akv_cl_attend_shape(&device, &p);
    cr_expect(akv_attend_part(1000000, 2048, shape.least, shape.most) == 512);
    p.max_tokens = 2048;
    p.max_length = 100000;
    shape = akv_cl_attend_shape(&device, &p);
    cr_expect(shape.slots >= 2048u * ((100000u + 2048u + 511u) / 512u));
}

#else
Test(opencl_programs, not_built)
{
    cr_skip_test("this build has no OpenCL backend");
}
#endif
