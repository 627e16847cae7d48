/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv verify`: every kernel of kernels.def, every format, byte by byte against the scalar
 * reference. */
#include "verify.h"
#include "../lib/objects.h"
#include "device_option.h"
#include "json.h"
#include "report.h"
#include "tools.h"
#include <fnmatch.h>
#include <inttypes.h>

extern const struct akv_cpu_kernel akv_cpu_encode_planted;

static const char command[] = "verify";

/* ---- what the cases of a kernel are run for ---- */

enum walk { WALK_FORMATS, WALK_CODES, WALK_RAW, WALK_F32, WALK_NONE, WALK_PAIRS };
static const struct family {
    enum walk walk;
    void (*run)(struct verify *v, uint32_t format);
} families[AKV_KERNEL_COUNT] = {
    [AKV_K_ENCODE] = {WALK_FORMATS, verify_encode}, [AKV_K_DECODE] = {WALK_FORMATS, verify_decode},
    [AKV_K_ROTATE] = {WALK_F32, verify_rotate},     [AKV_K_SEAL] = {WALK_FORMATS, verify_seal},
    [AKV_K_APPEND] = {WALK_RAW, verify_append},     [AKV_K_GATHER] = {WALK_FORMATS, verify_gather},
    [AKV_K_COPY] = {WALK_NONE, verify_copy},        [AKV_K_ATTEND] = {WALK_PAIRS, NULL},
    [AKV_K_REENCODE] = {WALK_FORMATS, verify_reencode},
    [AKV_K_SHIFT] = {WALK_FORMATS, verify_shift},
    [AKV_K_SCORE] = {WALK_FORMATS, verify_score},   [AKV_K_MEAN] = {WALK_FORMATS, verify_mean},
    [AKV_K_MASS] = {WALK_FORMATS, verify_mass},     [AKV_K_SELECT] = {WALK_NONE, verify_select},
    [AKV_K_COMPACT] = {WALK_FORMATS, verify_compact},
    [AKV_K_BX16_COUNT] = {WALK_NONE, verify_bx16},  [AKV_K_BX16_ENCODE] = {WALK_NONE, verify_bx16},
    [AKV_K_BX16_DECODE] = {WALK_NONE, verify_bx16},
    [AKV_K_RANS_COUNT] = {WALK_CODES, verify_rans}, [AKV_K_RANS_ENCODE] = {WALK_CODES, verify_rans},
    [AKV_K_RANS_DECODE] = {WALK_CODES, verify_rans},
    [AKV_K_LOWRANK_PROJECT] = {WALK_RAW, verify_lowrank},
    [AKV_K_LOWRANK_READ] = {WALK_NONE, verify_lowrank},
    [AKV_K_LOWRANK_ROWS] = {WALK_RAW, verify_lowrank},
    [AKV_K_MULTIPLY] = {WALK_NONE, verify_multiply},
};

/* Attention: every format with itself, the mixed pairs of the profiles, and one raw with one
 * packed. */
static const uint32_t pairs[][2] = {
    {AKV_F32, AKV_F32}, {AKV_F16, AKV_F16}, {AKV_BF16, AKV_BF16}, {AKV_I8, AKV_I8},
    {AKV_N6, AKV_N6},   {AKV_N5, AKV_N5},   {AKV_N4, AKV_N4},     {AKV_N3, AKV_N3},
    {AKV_N2, AKV_N2},   {AKV_I8, AKV_N4},   {AKV_N5, AKV_N4},     {AKV_N3, AKV_N2},
    {AKV_F16, AKV_N4},  {AKV_N4, AKV_I8},   {AKV_E4M3, AKV_E4M3}, {AKV_Q8_0, AKV_Q8_0},
    {AKV_Q5_1, AKV_Q5_1}, {AKV_Q5_0, AKV_Q4_0}, {AKV_Q4_1, AKV_Q4_1}, {AKV_Q4_0, AKV_Q4_0},
    {AKV_IQ4_NL, AKV_IQ4_NL}, {AKV_Q8_0, AKV_N4}, {AKV_N4, AKV_Q5_0},
    {AKV_E4M3G, AKV_E4M3G},
};

/* ---- the table ---- */

static const struct akv_column columns[] = {
    {"kernel", "kernel", 0},     {"variant", NULL, 0},     {"format", "format", 0},
    {"device", "device", 0},     {"isa", "isa", 0},        {"class", "class", 0},
    {"elements", "elements", 0}, {"differ", "differ", 0},  {"max_error", "max error", -3},
    {"seconds", "seconds", 2},   {"skipped", "remark", 0}, {"failures", NULL, 0},
};
enum { COLUMNS = sizeof columns / sizeof columns[0] };

struct totals {
    uint64_t elements, differ, failed, skipped;
    bool required_skipped;
};

static void emit_row(struct verify *v, struct akv_report *report, uint32_t t, struct totals *totals)
{
    const struct verify_target *target = &v->target[t];
    const struct verify_row *row = &v->row[t];
    const struct akv_kernel_info *kernel = &akv_kernels[v->kernel];
    bool bounded = kernel->class_ == AKV_CLASS_BOUNDED, ran = row->cases != 0;
    const char *remark = row->skipped[0] ? row->skipped : NULL;
    struct akv_value values[COLUMNS] = {
        akv_text(kernel->name),
        akv_none(),
        akv_text(v->format),
        akv_text(target->label),
        akv_text(target->isa),
        akv_text(bounded ? "bounded" : "exact"),
        akv_whole(row->elements),
        akv_whole(row->differ),
        bounded && ran ? akv_real(row->max_error) : akv_none(),
        akv_real((double)row->nanoseconds * 1e-9),
        akv_text(remark),
        akv_whole(row->failures),
    };
    akv_progress_hide(&v->progress);
    akv_report_row(report, values);
    totals->elements += row->elements;
    totals->differ += row->differ;
    totals->failed += row->differ != 0 || row->failures != 0;
    totals->skipped += remark != NULL;
    totals->required_skipped |= remark != NULL && target->required;
}

static void run_row(struct verify *v, struct akv_report *report, uint32_t k_format,
                    uint32_t v_format, struct totals *totals)
{
    char pair[16];
    const struct family *family = &families[v->kernel];
    v->format = family->walk == WALK_NONE ? NULL : verify_format_name(k_format);
    if (family->walk == WALK_PAIRS) {
        snprintf(pair, sizeof pair, "%s/%s", verify_format_name(k_format),
                 verify_format_name(v_format));
        v->format = pair;
    }
    if (v->format_glob && (!v->format || fnmatch(v->format_glob, v->format, 0) != 0))
        return;
    memset(v->row, 0, sizeof v->row);
    if (family->walk == WALK_PAIRS)
        verify_attend(v, k_format, v_format);
    else
        family->run(v, k_format);
    if (v->kernel == AKV_K_ENCODE || v->kernel == AKV_K_DECODE || v->kernel == AKV_K_SEAL ||
        v->kernel == AKV_K_GATHER)
        verify_maps(v, k_format);
    for (uint32_t t = 0; t < v->targets; t++) {
        bool idle = v->only && v->row[t].cases == 0 && v->row[t].skipped[0] == '\0';
        if (v->target[t].planted && v->kernel != AKV_K_ENCODE)
            continue;
        if (!idle || v->row[t].failures)
            emit_row(v, report, t, totals);
    }
}

static void run_kernel(struct verify *v, struct akv_report *report, struct totals *totals)
{
    switch (families[v->kernel].walk) {
    case WALK_FORMATS:
        for (uint32_t format = AKV_F32; format < AKV_FORMATS && !v->faults; format++)
            run_row(v, report, format, 0, totals);
        return;
    case WALK_CODES: /* formats of code planes */
        for (uint32_t format = AKV_I8; format <= AKV_E4M3 && !v->faults; format++)
            run_row(v, report, format, 0, totals);
        return;
    case WALK_RAW:
        for (uint32_t format = AKV_F32; format <= AKV_BF16 && !v->faults; format++)
            run_row(v, report, format, 0, totals);
        return;
    case WALK_PAIRS:
        for (uint32_t i = 0; i < sizeof pairs / sizeof pairs[0] && !v->faults; i++)
            run_row(v, report, pairs[i][0], pairs[i][1], totals);
        return;
    case WALK_F32:
    case WALK_NONE:
        run_row(v, report, AKV_F32, 0, totals);
        return;
    }
}

/* ---- targets ---- */

static const struct level {
    const char *name;
    uint32_t mask;
    bool native; /* of this machine's architecture: part of `all` */
} levels[] = {
    {"scalar", 0, true},
#if defined(__x86_64__) || defined(__i386__)
    {"avx2", ANYKV_ISA_AVX2, true},
    {"avx512", ANYKV_ISA_AVX2 | ANYKV_ISA_AVX512, true},
    {"neon", ANYKV_ISA_NEON, false},
#else
    {"avx2", ANYKV_ISA_AVX2, false},
    {"avx512", ANYKV_ISA_AVX2 | ANYKV_ISA_AVX512, false},
    {"neon", ANYKV_ISA_NEON, true},
#endif
};
enum { LEVELS = sizeof levels / sizeof levels[0] };

/* Two shapes: inline in a caller with an odd floating-point environment, and on worker threads that
 * were started from one. */
static anykv_status open_cpu(struct verify *v, struct verify_target *target, uint32_t mask)
{
    anykv_status status = ANYKV_OK;
    for (uint32_t s = 0; s < VERIFY_SHAPES && status == ANYKV_OK; s++) {
        anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
        options.isa_mask = mask;
        options.threads = s == 0 ? 0 : 3;
        target->side[s].odd_float = true;
        status = verify_side_open(v, &target->side[s], "cpu", &options);
    }
    return status;
}

static anykv_status add_cpu_level(struct verify *v, const char *label, const struct level *level,
                                  bool required)
{
    if (v->targets == VERIFY_TARGETS)
        return akv_fail(v->context, ANYKV_E_ARG, "--device: at most %u devices and levels",
                        VERIFY_TARGETS);
    struct verify_target *target = &v->target[v->targets];
    snprintf(target->label, sizeof target->label, "%s", label);
    target->isa = level->name;
    target->required = required;
    anykv_status status = open_cpu(v, target, level->mask);
    if (status != ANYKV_OK)
        return status;
    v->targets++;
    if (strcmp(target->side[0].device->info.isa, level->name) != 0) {
        bool built = level->mask == 0 || anykv_feature(level->name);
        snprintf(target->skip, sizeof target->skip,
                 built ? "this processor has no %s" : "this build has no %s", level->name);
    }
    return ANYKV_OK;
}

static anykv_status add_cpu(struct verify *v, const char *label, const char *isa, bool required)
{
    anykv_status status = ANYKV_OK;
    if (!isa) { /* the best that the machine has */
        struct verify_side side = {0};
        anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
        options.threads = 0;
        status = verify_side_open(v, &side, "cpu", &options);
        for (uint32_t i = 0; i < LEVELS && status == ANYKV_OK; i++)
            if (strcmp(levels[i].name, side.device->info.isa) == 0)
                isa = levels[i].name;
        verify_side_close(&side);
    }
    bool all = isa && strcmp(isa, "all") == 0, any = false;
    for (uint32_t i = 0; i < LEVELS && status == ANYKV_OK; i++)
        if (isa && (all ? levels[i].native : strcmp(isa, levels[i].name) == 0)) {
            any = true;
            status = add_cpu_level(v, label, &levels[i], required);
        }
    if (status == ANYKV_OK && !any)
        status =
            akv_fail(v->context, ANYKV_E_ARG,
                     "--isa: \"%s\" is not one of scalar, avx2, avx512, neon, all", isa ? isa : "");
    return status;
}

static anykv_status add_gpu(struct verify *v, const char *name, const char *label, bool required)
{
    if (v->targets == VERIFY_TARGETS)
        return akv_fail(v->context, ANYKV_E_ARG, "--device: at most %u devices and levels",
                        VERIFY_TARGETS);
    struct verify_target *target = &v->target[v->targets];
    snprintf(target->label, sizeof target->label, "%s", label);
    target->required = required;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    anykv_status status = verify_side_open(v, &target->side[0], name, &options);
    if (status != ANYKV_OK)
        return status;
    target->side[1].device = target->side[0].device;
    target->side[1].queue = target->side[0].queue;
    v->targets++;
    return ANYKV_OK;
}

/* A device by the name a person gave it; GO or an exit status. */
static int add_device(struct verify *v, const char *name, const char *isa, bool required)
{
    char what[AKV_ITEM_MAX + 16], label[16] = "";
    snprintf(what, sizeof what, "--%s %s", required ? "require" : "device", name);
    anykv_device *device = NULL;
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.threads = 0;
    anykv_status status = anykv_device_open(v->context, name, &options, &device);
    if (status != ANYKV_OK) {
        akv_cli_status(command, what, status);
        return AKV_EXIT_MISSING;
    }
    anykv_device_info info = ANYKV_DEVICE_INFO_INIT;
    status = anykv_device_describe(device, &info);
    anykv_device_close(device);
    if (status != ANYKV_OK)
        return akv_cli_status(command, what, status);
    akv_tool_label(v->context, &info, label, sizeof label);
    for (uint32_t t = 0; t < v->targets; t++)
        if (strcmp(v->target[t].label, label) == 0) {
            v->target[t].required |= required;
            required = false;
            label[0] = '\0';
        }
    if (label[0] == '\0') { /* asked for twice: all its levels are there already */
        return AKV_CLI_GO;
    }
    bool cpu = strcmp(info.backend, "cpu") == 0;
    status = cpu ? add_cpu(v, label, isa, required) : add_gpu(v, name, label, required);
    return status == ANYKV_OK ? AKV_CLI_GO : akv_cli_status(command, what, status);
}

static int add_planted(struct verify *v, const char *plant)
{
    static const char *const names[] = {"tie", "contract", "store", "stride"};
    for (uint32_t i = 0; i < 4; i++) {
        if (strcmp(plant, names[i]) != 0)
            continue;
        struct verify_target *target = &v->target[0];
        snprintf(target->label, sizeof target->label, "cpu");
        target->isa = "scalar";
        target->planted = &akv_cpu_encode_planted;
        target->plant = i + 1;
        anykv_status status = open_cpu(v, target, 0);
        if (status != ANYKV_OK)
            return akv_cli_status(command, "--plant", status);
        v->targets = 1;
        return AKV_CLI_GO;
    }
    return akv_cli_wrong(command, "--plant: \"%s\" is not one of tie, contract, store, stride",
                         plant);
}

/* ---- the run ---- */

static int finish(struct verify *v, const struct totals *totals)
{
    if (v->json) {
        struct akv_json_line line;
        akv_json_begin(&line, stdout);
        akv_json_bool(&line, "summary", true);
        akv_json_u64(&line, "elements", totals->elements);
        akv_json_u64(&line, "differ", totals->differ);
        akv_json_u64(&line, "failed", totals->failed);
        akv_json_u64(&line, "skipped", totals->skipped);
        akv_json_u64(&line, "seed", v->seed);
        akv_json_end(&line);
    } else {
        printf("%" PRIu64 " elements, %" PRIu64 " bytes differ, %" PRIu64 " rows failed, %" PRIu64
               " skipped, seed %" PRIu64 "\n",
               totals->elements, totals->differ, totals->failed, totals->skipped, v->seed);
    }
    if (totals->required_skipped)
        akv_cli_message(command, "a required device skipped something");
    if (totals->elements == 0)
        akv_cli_message(command,
                        totals->skipped ? "everything was skipped" : "nothing was compared");
    bool good = v->faults == 0 && totals->differ == 0 && totals->failed == 0 &&
                !totals->required_skipped && (totals->elements != 0 || totals->skipped != 0);
    return good ? AKV_EXIT_GOOD : AKV_EXIT_FAILED;
}

static int run(struct verify *v)
{
    struct totals totals = {0};
    struct akv_report *report = akv_report_begin(stdout, v->json, columns, COLUMNS);
    if (!report)
        return akv_cli_status(command, "report", ANYKV_E_MEMORY);
    uint64_t work = 0;
    for (uint32_t k = 0; k < AKV_KERNEL_COUNT; k++)
        if (fnmatch(v->kernel_glob, akv_kernels[k].name, 0) == 0)
            work += v->elements * (families[k].walk == WALK_FORMATS ? AKV_FORMATS - 1u : 2u);
    akv_progress_begin(&v->progress, "verify", work);
    for (uint32_t k = 0; k < AKV_KERNEL_COUNT && !v->faults; k++) {
        v->kernel = (enum akv_kernel_id)k;
        bool planted_elsewhere = v->target[0].planted && v->kernel != AKV_K_ENCODE;
        if (!planted_elsewhere && fnmatch(v->kernel_glob, akv_kernels[k].name, 0) == 0)
            run_kernel(v, report, &totals);
    }
    akv_progress_end(&v->progress);
    anykv_status status = akv_report_end(report);
    if (status != ANYKV_OK)
        return akv_cli_status(command, "output", status);
    return finish(v, &totals);
}

static int open_all(struct verify *v, const struct akv_text_list *devices,
                    const struct akv_text_list *required, const char *isa, const char *plant)
{
    anykv_device_options options = ANYKV_DEVICE_OPTIONS_INIT;
    options.isa_mask = 0;
    anykv_status status = verify_side_open(v, &v->reference, "cpu", &options);
    if (status != ANYKV_OK)
        return akv_cli_status(command, "the scalar reference", status);
    if (plant)
        return add_planted(v, plant);
    int go = AKV_CLI_GO;
    for (uint32_t i = 0; i < required->count && go == AKV_CLI_GO; i++)
        go = add_device(v, required->item[i], isa, true);
    for (uint32_t i = 0; i < devices->count && go == AKV_CLI_GO; i++)
        go = add_device(v, devices->item[i], isa, false);
    return go;
}

static bool any_kernel(const char *glob)
{
    for (uint32_t k = 0; k < AKV_KERNEL_COUNT; k++)
        if (fnmatch(glob, akv_kernels[k].name, 0) == 0)
            return true;
    return false;
}

static void close_all(struct verify *v)
{
    for (uint32_t t = 0; t < VERIFY_TARGETS; t++)
        for (uint32_t s = VERIFY_SHAPES; s > 0; s--)
            verify_side_close(&v->target[t].side[s - 1]);
    verify_side_close(&v->reference);
    akv_free(v->context, v->scratch);
}

int akv_tool_verify(int argc, char **argv)
{
    const char *isa = NULL, *plant = NULL;
    struct akv_text_list devices = {1, {"auto"}}, required = {0};
    struct verify *v = akv_alloc(NULL, 1, sizeof *v);
    if (!v)
        return akv_cli_status(command, "start", ANYKV_E_MEMORY);
    v->kernel_glob = "*";
    v->elements = 1000000;
    v->seed = 1;
    const struct akv_cli_option options[] = {
        {"device", AKV_CLI_TEXT_LIST, &devices, 0, 0, "LIST",
         "cpu, opencl, cuda, names or numbers of `anykv devices` (default: auto)"},
        {"kernel", AKV_CLI_TEXT, &v->kernel_glob, 0, 0, "GLOB", "kernels to run (default: *)"},
        {"format", AKV_CLI_TEXT, &v->format_glob, 0, 0, "GLOB", "formats to run (default: all)"},
        {"isa", AKV_CLI_TEXT, &isa, 0, 0, "LEVEL",
         "of cpu: scalar, avx2, avx512, neon or all\n(default: the best that the machine has)"},
        {"elements", AKV_CLI_U64, &v->elements, 1, UINT64_C(1) << 40, "N",
         "stored elements of each row of the table, rounded up to whole\nrows; attend takes a "
         "fixed set "
         "(default: 1000000)"},
        {"seed", AKV_CLI_U64, &v->seed, 0, UINT64_MAX, "N", "of the inputs (default: 1)"},
        {"require", AKV_CLI_TEXT_LIST, &required, 0, 0, "DEVICE",
         "a device that must be there and skip nothing; repeatable"},
        {"plant", AKV_CLI_TEXT, &plant, 0, 0, "FAULT",
         "run an encoder with a fault in place of the real one: tie,\ncontract, store or stride; "
         "must end "
         "in exit status 1"},
        {"case", AKV_CLI_TEXT, &v->only, 0, 0, "NAME", "run one case, as a replay line names it"},
        AKV_JSON_OPTION(v->json),
        {NULL, AKV_CLI_FLAG, NULL, 0, 0, NULL, NULL},
    };
    const struct akv_cli cli = {
        command,
        "[OPTION]...",
        "Runs every kernel on a device, on adversarial inputs between guard bytes, and compares "
        "what it\n"
        "writes with the scalar reference.  Exit status 0: nothing differs and all that was "
        "required ran.",
        "anykv verify --device cpu --isa all --elements 1e7\n"
        "anykv verify --device cuda --require cuda --kernel 'enc*' --json",
        options,
        0,
        0,
    };
    const char *positional[AKV_LIST_MAX];
    uint32_t count = 0;
    int go = akv_cli_parse(&cli, argc, argv, positional, &count);
    if (go == AKV_CLI_GO && !any_kernel(v->kernel_glob))
        go = akv_cli_wrong(command, "--kernel: no kernel is called \"%s\"", v->kernel_glob);
    struct akv_tool tool = {0};
    if (go == AKV_CLI_GO)
        go = akv_tool_context(&tool, command);
    if (go == AKV_CLI_GO) {
        v->context = tool.context;
        go = open_all(v, &devices, &required, isa, plant);
        if (go == AKV_CLI_GO)
            go = run(v);
        close_all(v);
    }
    akv_tool_close(&tool);
    akv_free(NULL, v);
    return go;
}
