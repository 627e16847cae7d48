/* SPDX-License-Identifier: Apache-2.0 */
/* Context, status, options, allocator seam, log, threads, hash, format names. */
#include "house.h"
#include <stdio.h>
#include <stdlib.h>

/* ---- status ---- */

Test(status, names_and_texts)
{
    cr_expect_str_eq(anykv_status_name(ANYKV_OK), "ANYKV_OK");
    cr_expect_str_eq(anykv_status_name(ANYKV_E_BUDGET), "ANYKV_E_BUDGET");
    cr_expect_str_eq(anykv_status_text(ANYKV_E_TIMEOUT), "time-out");
    cr_expect_str_eq(anykv_status_name((anykv_status)-99), "ANYKV_E_?");
    cr_expect_str_eq(anykv_status_text((anykv_status)99), "unknown status");
    for (int code = 0; code >= -14; code--)
        cr_expect(strncmp(anykv_status_name((anykv_status)code), "ANYKV_", 6) == 0 &&
                      strlen(anykv_status_text((anykv_status)code)) > 3,
                  "code %d has no name or text", code);
}

static void *detail_of_new_thread(void *argument)
{
    *(bool *)argument = strcmp(anykv_error_detail(), "") == 0;
    akv_fail(NULL, ANYKV_E_IO, "in the thread");
    return NULL;
}

Test(status, detail_belongs_to_the_thread)
{
    cr_expect_str_eq(anykv_error_detail(), "");
    cr_expect(akv_fail(NULL, ANYKV_E_ARG, "field: %d is beyond %d", 7, 5) == ANYKV_E_ARG);
    cr_expect_str_eq(anykv_error_detail(), "field: 7 is beyond 5");
    akv_fail(NULL, ANYKV_E_ARG, "again: %s", anykv_error_detail());
    cr_expect_str_eq(anykv_error_detail(), "again: field: 7 is beyond 5");
    akv_thread thread;
    bool empty = false;
    OK(akv_thread_start(NULL, &thread, detail_of_new_thread, &empty));
    akv_thread_join(&thread);
    cr_expect(empty, "a new thread starts with another's detail");
    cr_expect_str_eq(anykv_error_detail(), "again: field: 7 is beyond 5");
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    akv_fail(NULL, ANYKV_E_ARG, "%s", text);
    cr_expect(strlen(anykv_error_detail()) > 500, "a long detail is cut, not lost");
}

/* ---- option structs ---- */

struct options {
    size_t size;
    uint32_t a, b;
    uint64_t c;
};

static anykv_status copy(struct options *into, const void *options)
{
    *into = (struct options){sizeof *into, 1, 2, 3};
    return akv_options(NULL, "test options", into, sizeof *into, options);
}

Test(options, sizes)
{
    struct options into;
    OK(copy(&into, NULL));
    cr_expect(into.a == 1 && into.b == 2 && into.c == 3, "NULL gives the defaults");
    struct options given = {sizeof given, 10, 20, 30};
    OK(copy(&into, &given));
    cr_expect(into.a == 10 && into.b == 20 && into.c == 30);
    given.size = offsetof(struct options, c);
    OK(copy(&into, &given));
    cr_expect(into.a == 10 && into.b == 20 && into.c == 3, "a shorter struct leaves the rest");
    cr_expect(into.size == sizeof into);
    given.size = sizeof(size_t);
    OK(copy(&into, &given));
    cr_expect(into.a == 1);
    static const size_t wrong[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        given.size = wrong[i];
        REFUSED(ANYKV_E_ARG, "test options.size", copy(&into, &given));
        cr_expect(into.a == 1 && into.c == 3, "size %zu changed the result", wrong[i]);
    }
    struct {
        struct options known;
        uint8_t more[16];
    } larger = {{sizeof larger, 10, 20, 30}, {0}};
    OK(copy(&into, &larger));
    cr_expect(into.c == 30, "unknown zero bytes are accepted");
    larger.more[15] = 1;
    REFUSED(ANYKV_E_ARG, "this version knows", copy(&into, &larger));
}

/* ---- allocator ---- */

Test(alloc, zeroed_aligned_checked)
{
    static const size_t sizes[] = {0, 1, 15, 16, 63, 64, 65, 4096, 1000003};
    uint64_t live = akv_alloc_live();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *memory = akv_alloc(NULL, sizes[i], 1);
        cr_assert(memory, "%zu bytes", sizes[i]);
        cr_expect((uintptr_t)memory % (sizes[i] >= 64 ? 64 : 16) == 0, "%zu bytes: alignment",
                  sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++)
            cr_assert(memory[j] == 0, "%zu bytes: byte %zu is set", sizes[i], j);
        memset(memory, 0xAA, sizes[i]);
        cr_expect(akv_alloc_live() == live + 1);
        akv_free(NULL, memory);
    }
    akv_free(NULL, NULL);
    cr_expect(akv_alloc_live() == live);
    cr_expect_null(akv_alloc(NULL, SIZE_MAX, 2));
    cr_expect(strstr(anykv_error_detail(), "do not fit"), "%s", anykv_error_detail());
    cr_expect_null(akv_alloc(NULL, (size_t)1 << 33, (size_t)1 << 33));
    cr_expect_null(akv_alloc(NULL, SIZE_MAX, 1));
    cr_expect_null(akv_alloc(NULL, SIZE_MAX - 8, 1));
    cr_expect_null(akv_alloc(NULL, SIZE_MAX / 2, 1));
    cr_expect(akv_alloc_live() == live);
}

Test(alloc, resize)
{
    uint32_t *memory = akv_resize(NULL, NULL, 0, 4, sizeof *memory);
    for (uint32_t i = 0; i < 4; i++)
        memory[i] = i + 1;
    memory = akv_resize(NULL, memory, 4, 100, sizeof *memory);
    cr_expect(memory[3] == 4 && memory[4] == 0 && memory[99] == 0);
    cr_expect_null(akv_resize(NULL, memory, 100, SIZE_MAX, sizeof *memory));
    akv_alloc_fail_at(1, false);
    cr_expect_null(akv_resize(NULL, memory, 100, 200, sizeof *memory));
    akv_alloc_fail_at(0, false);
    cr_expect(memory[0] == 1 && memory[99] == 0, "a failed resize keeps the memory");
    memory = akv_resize(NULL, memory, 100, 2, sizeof *memory);
    cr_expect(memory[1] == 2);
    akv_free(NULL, memory);
}

Test(alloc, injection)
{
    akv_alloc_fail_at(2, false);
    void *a = akv_alloc(NULL, 1, 8), *b = akv_alloc(NULL, 1, 8), *c = akv_alloc(NULL, 1, 8);
    cr_expect(a && !b && c && akv_alloc_count() == 3);
    akv_alloc_fail_at(1, true);
    cr_expect_null(akv_alloc(NULL, 1, 8));
    cr_expect_null(akv_alloc(NULL, 1, 8));
    akv_alloc_fail_at(0, true);
    b = akv_alloc(NULL, 1, 8);
    cr_expect(b && akv_alloc_count() == 1);
    akv_free(NULL, a);
    akv_free(NULL, b);
    akv_free(NULL, c);
}

/* ---- context ---- */

struct hooks {
    size_t live, bytes, calls;
    bool wrong, refuse;
};

static void *hook_alloc(void *user, size_t bytes, size_t align)
{
    struct hooks *hooks = user;
    hooks->calls++;
    hooks->wrong |= align == 0 || (align & (align - 1)) || align > 64;
    if (hooks->refuse)
        return NULL;
    size_t *memory = aligned_alloc(64, (bytes + 64 + 63) & ~(size_t)63);
    memory[0] = bytes;
    hooks->live++;
    hooks->bytes += bytes;
    return (uint8_t *)memory + 64;
}

static void hook_free(void *user, void *memory, size_t bytes)
{
    struct hooks *hooks = user;
    size_t *raw = (size_t *)(void *)((uint8_t *)memory - 64);
    hooks->wrong |= raw[0] != bytes;
    hooks->live--;
    hooks->bytes -= bytes;
    free(raw);
}

Test(context, hooks_get_what_they_gave)
{
    struct hooks hooks = {0, 0, 0, false, false};
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    options.alloc = hook_alloc;
    options.free = hook_free;
    options.alloc_user = &hooks;
    anykv_context *context;
    OK(anykv_context_create(&options, &context));
    cr_expect(hooks.live == 1, "the context itself comes from the hook");
    uint32_t count;
    OK(anykv_device_count(context, &count));
    anykv_device *device = house_device(context, 2);
    anykv_mem *mem;
    OK(anykv_mem_create(device, 100, &mem));
    anykv_mem_destroy(mem);
    anykv_device_close(device);
    anykv_context_destroy(context);
    cr_expect(hooks.live == 0 && hooks.bytes == 0 && !hooks.wrong && hooks.calls > 5);
    hooks.refuse = true;
    REFUSED(ANYKV_E_MEMORY, "memory", anykv_context_create(&options, &context));
}

Test(context, bad_options)
{
    anykv_context *context = (anykv_context *)(uintptr_t)64;
    REFUSED(ANYKV_E_ARG, "context_out", anykv_context_create(NULL, NULL));
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    options.alloc = hook_alloc;
    REFUSED(ANYKV_E_ARG, "alloc is set without free", anykv_context_create(&options, &context));
    options.alloc = NULL;
    options.free = hook_free;
    REFUSED(ANYKV_E_ARG, "free is set without alloc", anykv_context_create(&options, &context));
    options.free = NULL;
    options.log_level = 4;
    REFUSED(ANYKV_E_ARG, "log_level", anykv_context_create(&options, &context));
    options.log_level = -1;
    REFUSED(ANYKV_E_ARG, "log_level", anykv_context_create(&options, &context));
    options.log_level = 0;
    options.size = 0;
    REFUSED(ANYKV_E_ARG, "size", anykv_context_create(&options, &context));
    options.size = SIZE_MAX;
    REFUSED(ANYKV_E_ARG, "size", anykv_context_create(&options, &context));
    cr_expect(context == (anykv_context *)(uintptr_t)64, "a failure wrote the output");
    anykv_context_destroy(NULL);
}

static anykv_status context_scenario(void)
{
    anykv_context *context;
    anykv_status status = anykv_context_create(NULL, &context);
    if (status)
        return status;
    uint32_t count;
    status = anykv_device_count(context, &count);
    anykv_context_destroy(context);
    return status;
}

Test(context, every_allocation_fails_once)
{
    house_fail_allocations("context", context_scenario);
}

struct log {
    int count[4];
    char last[256];
};

static void take_log(void *user, int level, const char *message)
{
    struct log *log = user;
    if (level >= 0 && level <= 3)
        log->count[level]++;
    strncpy(log->last, message, sizeof log->last - 1);
}

Test(context, log_levels)
{
    for (int level = ANYKV_LOG_ERROR; level <= ANYKV_LOG_DEBUG; level++) {
        struct log log = {{0}, ""};
        anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
        options.log = take_log;
        options.log_user = &log;
        options.log_level = level;
        anykv_context *context;
        OK(anykv_context_create(&options, &context));
        akv_log(context, ANYKV_LOG_WARNING, "warning %d", 1);
        cr_expect(log.count[ANYKV_LOG_WARNING] == (level >= ANYKV_LOG_WARNING), "level %d", level);
        akv_fail(context, ANYKV_E_BUDGET, "what happened");
        cr_expect(log.count[ANYKV_LOG_DEBUG] == (level >= ANYKV_LOG_DEBUG), "level %d", level);
        if (level == ANYKV_LOG_DEBUG)
            cr_expect_str_eq(log.last, "ANYKV_E_BUDGET: what happened");
        anykv_context_destroy(context);
    }
    akv_log(NULL, ANYKV_LOG_ERROR, "nobody listens");
}

Test(context, version_and_features)
{
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", ANYKV_VERSION_MAJOR, ANYKV_VERSION_MINOR,
             ANYKV_VERSION_PATCH);
    cr_expect_str_eq(anykv_version(), version);
    cr_expect(anykv_feature("no such feature") == 0);
    cr_expect(anykv_feature(NULL) == 0 && anykv_feature("") == 0);
#if defined(AKV_HAVE_AVX2)
    cr_expect(anykv_feature("avx2") == 1);
#else
    cr_expect(anykv_feature("avx2") == 0);
#endif
}

/* ---- threads ---- */

struct meeting {
    akv_mutex lock;
    akv_cond cond;
    int turn;
};

static void *answer(void *argument)
{
    struct meeting *meeting = argument;
    akv_mutex_lock(&meeting->lock);
    while (meeting->turn != 1)
        akv_cond_wait(&meeting->cond, &meeting->lock);
    meeting->turn = 2;
    akv_cond_broadcast(&meeting->cond);
    akv_mutex_unlock(&meeting->lock);
    return NULL;
}

Test(thread, condition_and_time)
{
    struct meeting meeting = {.turn = 0};
    OK(akv_mutex_init(NULL, &meeting.lock));
    OK(akv_cond_init(NULL, &meeting.cond));
    akv_mutex_lock(&meeting.lock);
    uint64_t start = akv_now_ns();
    while (akv_cond_wait_until(&meeting.cond, &meeting.lock, start + 3000000)) {
    }
    cr_expect(akv_now_ns() - start >= 3000000, "a wait ended before its deadline");
    akv_mutex_unlock(&meeting.lock);
    akv_thread thread;
    OK(akv_thread_start(NULL, &thread, answer, &meeting));
    akv_mutex_lock(&meeting.lock);
    meeting.turn = 1;
    akv_cond_signal(&meeting.cond);
    while (meeting.turn != 2)
        cr_assert(akv_cond_wait_until(&meeting.cond, &meeting.lock, akv_now_ns() + 60000000000u));
    akv_mutex_unlock(&meeting.lock);
    akv_thread_join(&thread);
    akv_cond_destroy(&meeting.cond);
    akv_mutex_destroy(&meeting.lock);
    cr_expect(akv_cpu_count() >= 1 && akv_cpu_count() < 100000);
}

/* ---- hash ---- */

static void expect_digest(const akv_digest *digest, const char *hex)
{
    char text[65];
    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest->byte[i]);
    cr_expect_str_eq(text, hex);
}

/* The test vectors of FIPS 180-4. */
Test(hash, known_answers)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_digest digest = akv_sha256_final(&state);
    expect_digest(&digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    akv_sha256_init(&state);
    akv_sha256_update(&state, "ab", 2);
    akv_sha256_update(&state, NULL, 0);
    akv_sha256_update(&state, "c", 1);
    digest = akv_sha256_final(&state);
    expect_digest(&digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    static const uint8_t integers[] = {4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11};
    akv_sha256_init(&state);
    akv_sha256_u32(&state, 0x01020304u);
    akv_sha256_u64(&state, 0x1112131415161718u);
    digest = akv_sha256_final(&state);
    akv_sha256_init(&state);
    akv_sha256_update(&state, integers, sizeof integers);
    akv_digest same = akv_sha256_final(&state);
    cr_expect(memcmp(&digest, &same, sizeof same) == 0, "integers are little-endian");
}

/* ---- formats ---- */

Test(format, names)
{
    static const char *const names[] = {"F32", "F16", "BF16", "I8", "N6", "N5", "N4", "N3", "N2"};
    for (int i = 0; i < 9; i++) {
        anykv_format format;
        cr_expect_str_eq(anykv_format_name((anykv_format)(i + 1)), names[i]);
        OK(anykv_format_parse(names[i], &format));
        cr_expect(format == (anykv_format)(i + 1));
    }
    anykv_format format = ANYKV_N2;
    OK(anykv_format_parse("bf16", &format));
    cr_expect(format == ANYKV_BF16);
    static const char *const wrong[] = {"", "N", "N44", "N1", "F16 ", "q4", "N4/N4", "F"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        REFUSED(ANYKV_E_ARG, "is none of", anykv_format_parse(wrong[i], &format));
    cr_expect(format == ANYKV_BF16, "a failure wrote the output");
    REFUSED(ANYKV_E_ARG, "name", anykv_format_parse(NULL, &format));
    REFUSED(ANYKV_E_ARG, "format_out", anykv_format_parse("N4", NULL));
    cr_expect_str_eq(anykv_format_name((anykv_format)0), "?");
    cr_expect_str_eq(anykv_format_name((anykv_format)18), "?");
}

Test(format, pairs)
{
    static const struct {
        const char *name;
        anykv_format k, v;
    } pairs[] = {{"q8", ANYKV_I8, ANYKV_I8},       {"q6", ANYKV_I8, ANYKV_N4},
                 {"q5", ANYKV_N5, ANYKV_N4},       {"Q4", ANYKV_N4, ANYKV_N4},
                 {"q3", ANYKV_N3, ANYKV_N3},       {"q2", ANYKV_N3, ANYKV_N2},
                 {"I8/N4", ANYKV_I8, ANYKV_N4},    {"F16", ANYKV_F16, ANYKV_F16},
                 {"bf16/n6", ANYKV_BF16, ANYKV_N6}, {"lossless", ANYKV_BF16, ANYKV_BF16},
                 {"iq4_nl/Q8_0", ANYKV_IQ4_NL, ANYKV_Q8_0},
                 {"e4m3g/E4M3", ANYKV_E4M3G, ANYKV_E4M3}};
    anykv_format k = ANYKV_F32, v = ANYKV_F32;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        OK(anykv_format_pair_parse(pairs[i].name, &k, &v));
        cr_expect(k == pairs[i].k && v == pairs[i].v, "%s gives %s/%s", pairs[i].name,
                  anykv_format_name(k), anykv_format_name(v));
    }
    k = v = ANYKV_F32;
    static const char *const wrong[] = {"", "/", "N4/", "/N4", "N4/N4/N4", "q7", "N4 /N4"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        REFUSED(ANYKV_E_ARG, "neither a profile", anykv_format_pair_parse(wrong[i], &k, &v));
    REFUSED(ANYKV_E_ARG, "name", anykv_format_pair_parse(NULL, &k, &v));
    REFUSED(ANYKV_E_ARG, "k_out", anykv_format_pair_parse("q4", NULL, &v));
    REFUSED(ANYKV_E_ARG, "v_out", anykv_format_pair_parse("q4", &k, NULL));
    cr_expect(k == ANYKV_F32 && v == ANYKV_F32, "a failure wrote the output");
}

Test(format, bits)
{
    static const struct {
        anykv_format format;
        double bits;
    } at_128[] = {{ANYKV_F32, 32},   {ANYKV_F16, 16},  {ANYKV_BF16, 16},
                  {ANYKV_I8, 8.125}, {ANYKV_N6, 6.25}, {ANYKV_N5, 5.25},
                  {ANYKV_N4, 4.25},  {ANYKV_N3, 3.25}, {ANYKV_N2, 2.25},
                  {ANYKV_E4M3, 8.125}, {ANYKV_Q8_0, 8.5}, {ANYKV_Q5_1, 6.0}, {ANYKV_Q5_0, 5.5},
                  {ANYKV_Q4_1, 5.0}, {ANYKV_Q4_0, 4.5}, {ANYKV_IQ4_NL, 4.5},
                  {ANYKV_E4M3G, 8.0}};
    for (size_t i = 0; i < sizeof at_128 / sizeof at_128[0]; i++)
        cr_expect(anykv_format_bits(at_128[i].format, 128) == at_128[i].bits, "%s: %g",
                  anykv_format_name(at_128[i].format), anykv_format_bits(at_128[i].format, 128));
    cr_expect(anykv_format_bits(ANYKV_I8, 64) == 8.25);
    cr_expect(anykv_format_bits(ANYKV_N4, 80) == 96.0 * 4.25 / 80.0, "padding counts");
    cr_expect(anykv_format_bits((anykv_format)0, 128) == 0.0);
    cr_expect(anykv_format_bits((anykv_format)18, 128) == 0.0);
    cr_expect(anykv_format_bits(ANYKV_N4, 0) == 0.0);
    cr_expect(anykv_format_bits(ANYKV_N4, UINT32_MAX) == 0.0);
}
