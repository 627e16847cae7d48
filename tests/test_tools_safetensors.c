/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged and foreign safetensors files: each gets a status and a detail that names the field. */
#include "tools/dump.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char path[64];

static void make_path(void)
{
    snprintf(path, sizeof path, "anykv-safetensors.%ld.tmp", (long)getpid());
}
static void remove_path(void)
{
    unlink(path);
}
TestSuite(safetensors, .init = make_path, .fini = remove_path);

/* Writes a header length, a header and data_bytes zeros. */
static void write_raw(uint64_t length, const char *header, size_t data_bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < 8; i++)
        fputc((int)(length >> (8 * i) & 255u), file);
    fputs(header, file);
    for (size_t i = 0; i < data_bytes; i++)
        fputc(0, file);
    cr_assert(fclose(file) == 0);
}
static void write_file(const char *header, size_t data_bytes)
{
    write_raw(strlen(header), header, data_bytes);
}

static void refused(anykv_status expected, const char *detail)
{
    struct akv_safetensors *file = (struct akv_safetensors *)(uintptr_t)1;
    anykv_status status = akv_safetensors_open(path, &file);
    cr_expect(status == expected, "%s (%s), expected %s for \"%s\"", anykv_status_name(status),
              anykv_error_detail(), anykv_status_name(expected), detail);
    cr_expect(strstr(anykv_error_detail(), detail) != NULL, "detail \"%s\" does not say \"%s\"",
              anykv_error_detail(), detail);
    cr_expect(file == (struct akv_safetensors *)(uintptr_t)1, "written on failure");
    cr_expect(akv_alloc_live() == 0, "%" PRIu64 " allocations are left", akv_alloc_live());
}

Test(safetensors, reads_what_is_there)
{
    struct akv_safetensors *file;
    write_file("{\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
               "\"__metadata__\":{\"x\":\"y\"},"
               "\"e\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[16,16]},"
               "\"a\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"I32\"}}  ",
               16);
    cr_assert(akv_safetensors_open(path, &file) == ANYKV_OK, "%s", anykv_error_detail());
    cr_expect(akv_safetensors_count(file) == 3);
    const struct akv_tensor *b = akv_safetensors_find(file, "b");
    cr_assert(b != NULL && b->rank == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->bytes == 12);
    cr_expect_str_eq(b->dtype, "F16");
    cr_expect_str_eq(akv_safetensors_meta(file, "x"), "y");
    cr_expect(akv_safetensors_meta(file, "y") == NULL && akv_safetensors_find(file, "x") == NULL);
    uint16_t data[6];
    cr_expect(akv_safetensors_read(file, b, data) == ANYKV_OK);
    akv_safetensors_close(file);
    cr_expect(akv_alloc_live() == 0);
}

Test(safetensors, missing_and_short_files)
{
    refused(ANYKV_E_IO, "cannot be opened");
    FILE *file = fopen(path, "wb");
    fputs("1234567", file);
    fclose(file);
    refused(ANYKV_E_DATA, "too few for a header");
    write_raw(100, "{}", 0);
    refused(ANYKV_E_DATA, "header length: 100 bytes, but only 2 follow");
    write_raw(UINT64_MAX, "{}", 0);
    refused(ANYKV_E_DATA, "header length");
    write_raw(AKV_HEADER_LIMIT + 1, "{}", 0);
    refused(ANYKV_E_DATA, "above the limit");
    write_raw(UINT64_MAX - 7, "{}", 0);
    refused(ANYKV_E_DATA, "above the limit");
}

Test(safetensors, headers_that_are_no_headers)
{
    write_file("", 0);
    refused(ANYKV_E_DATA, "an object is expected");
    write_file("[]", 0);
    refused(ANYKV_E_DATA, "an object is expected");
    write_file("{}x", 0);
    refused(ANYKV_E_DATA, "something follows the end");
    write_file("{\"a\":1}", 0);
    refused(ANYKV_E_DATA, "\"a\"");
    write_file("{\"__metadata__\":{\"a\":1}}", 0);
    refused(ANYKV_E_DATA, "\"a\"");
    write_file("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0);
    refused(ANYKV_E_DATA, "\"a\" twice");
    write_file("{\"__metadata__\":{},\"__metadata__\":{}}", 0);
    refused(ANYKV_E_DATA, "__metadata__ twice");
}

#define A_AT(from, to) "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[" from "," to "]}"

Test(safetensors, offsets)
{
    write_file(A_AT("0", "8") "}", 7);
    refused(ANYKV_E_DATA, "a: data_offsets reach beyond the 7 data bytes");
    write_file(A_AT("0", "8") "}", 9);
    refused(ANYKV_E_DATA, "the tensors end 1 bytes before the file");
    write_file(A_AT("4", "12") "}", 12);
    refused(ANYKV_E_DATA, "hole of 4 bytes");
    write_file(A_AT("8", "0") "}", 8);
    refused(ANYKV_E_DATA, "a begin and an end");
    write_file(A_AT("18446744073709551608", "18446744073709551615") "}", 8);
    refused(ANYKV_E_DATA, "data_offsets 7");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[18446744073709551600,"
               "18446744073709551608]}}",
               8);
    refused(ANYKV_E_DATA, "reach beyond");
    write_file(A_AT("0", "18446744073709551616") "}", 8);
    refused(ANYKV_E_DATA, "beyond 2^64");
    write_file(A_AT("0", "8") ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
               12);
    refused(ANYKV_E_DATA, "overlap");
    write_file(A_AT("0", "8") ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
               16);
    refused(ANYKV_E_DATA, "a: this tensor is there twice");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8);
    refused(ANYKV_E_DATA, "more than 2 numbers");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8);
    refused(ANYKV_E_DATA, "data_offsets must be");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8);
    refused(ANYKV_E_DATA, "not negative");
}

Test(safetensors, shapes_and_dtypes)
{
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8);
    refused(ANYKV_E_DATA, "shape and dtype take 12 bytes, data_offsets 8");
    write_file(
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0);
    refused(ANYKV_E_DATA, "the product of shape");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}",
               0);
    refused(ANYKV_E_DATA, "the product of shape");
    write_file("{\"a\":{\"dtype\":\"F99\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    refused(ANYKV_E_UNSUPPORTED, "a: dtype \"F99\" is not known");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
               4);
    refused(ANYKV_E_DATA, "more than 8 dimensions");
    write_file("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8);
    refused(ANYKV_E_DATA, "field \"shape\" is missing");
    write_file("{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    refused(ANYKV_E_DATA, "field \"dtype\" is missing");
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8);
    refused(ANYKV_E_DATA, "field \"data_offsets\" is missing");
    write_file("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
               8);
    refused(ANYKV_E_DATA, "field \"dtype\" twice");
    write_file("{\"a\":{\"kind\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    refused(ANYKV_E_DATA, "unknown field \"kind\"");
}

/* Every cut of the bundled file is an error, never a crash or a leak. */
Test(safetensors, every_truncation_of_the_header)
{
    char source[512], header[4096];
    snprintf(source, sizeof source, "%s/tests/data/smollm2-code-cut.safetensors",
             getenv("top_srcdir") ? getenv("top_srcdir") : ".");
    FILE *file = fopen(source, "rb");
    if (file == NULL)
        cr_skip_test("tests/data is not here; run by make check");
    size_t bytes = fread(header, 1, sizeof header, file);
    fclose(file);
    for (size_t cut = 0; cut < bytes; cut += 7) {
        struct akv_safetensors *opened;
        file = fopen(path, "wb");
        fwrite(header, 1, cut, file);
        fclose(file);
        cr_expect(akv_safetensors_open(path, &opened) == ANYKV_E_DATA, "cut at %zu", cut);
    }
    cr_expect(akv_alloc_live() == 0);
}

/* ---- dumps: metadata that does not fit the tensors ---- */

#define META                                                                                       \
    "\"tokens\":\"2\",\"q_first\":\"1\",\"kv_heads\":\"1\",\"q_heads\":\"2\",\"head_dim\":\"2\","
#define REST "\"scale\":\"0.5\",\"layers\":\"3\""
#define TENSOR(side, shape, from, to)                                                              \
    "\"layers.3." side "\":{\"dtype\":\"F16\",\"shape\":" shape ",\"data_offsets\":[" from "," to  \
    "]}"
#define TENSORS                                                                                    \
    TENSOR("k", "[2,1,2]", "0", "8")                                                               \
    "," TENSOR("v", "[2,1,2]", "8", "16") "," TENSOR("q", "[1,2,2]", "16", "24")

static void dump_refused(const char *meta, const char *tensors, size_t bytes, const char *detail)
{
    char header[2048];
    struct akv_dump dump;
    snprintf(header, sizeof header, "{\"__metadata__\":{%s},%s}", meta, tensors);
    write_file(header, bytes);
    anykv_status status = akv_dump_open(&dump, path);
    cr_expect(status == ANYKV_E_DATA && strstr(anykv_error_detail(), detail) != NULL,
              "%s: \"%s\" does not say \"%s\"", anykv_status_name(status), anykv_error_detail(),
              detail);
    akv_dump_close(&dump);
    cr_expect(akv_alloc_live() == 0);
}

Test(safetensors, a_small_dump_is_read)
{
    char header[2048];
    struct akv_dump dump;
    snprintf(header, sizeof header,
             "{\"__metadata__\":{%s%s,\"sliding_window\":\"7\",\"global_layers\":\"\"},%s}", META,
             REST, TENSORS);
    write_file(header, 24);
    cr_assert(akv_dump_open(&dump, path) == ANYKV_OK, "%s", anykv_error_detail());
    cr_expect(dump.tokens == 2 && dump.layers == 1 && dump.layer[0] == 3 && dump.window[0] == 7);
    struct akv_dump_layer layer;
    cr_expect(akv_dump_load(&dump, 0, &layer) == ANYKV_OK && layer.k_dtype == ANYKV_F16);
    akv_dump_free(&layer);
    akv_dump_close(&dump);
    cr_expect(akv_alloc_live() == 0);
}

Test(safetensors, dumps_that_do_not_fit)
{
    dump_refused(REST, TENSORS, 24, "\"tokens\" is missing");
    dump_refused(META "\"layers\":\"3\"", TENSORS, 24, "\"scale\" is missing");
    dump_refused(META "\"layers\":\"3\",\"scale\":\"nan\"", TENSORS, 24, "\"scale\" is \"nan\"");
    dump_refused(META "\"scale\":\"1\"", TENSORS, 24, "\"layers\" is missing");
    dump_refused(META "\"scale\":\"1\",\"layers\":\"3,\"", TENSORS, 24, "\"layers\"");
    dump_refused(META "\"scale\":\"1\",\"layers\":\"3,3\"", TENSORS, 24, "ascending");
    dump_refused(META "\"scale\":\"1\",\"layers\":\"3,4\"", TENSORS, 24,
                 "layers.4.k: this tensor is missing");
    dump_refused(META REST ",\"sliding_window\":\"0\"", TENSORS, 24, "\"sliding_window\" is \"0\"");
    dump_refused(META REST,
                 TENSOR("k", "[2,1,2]", "0", "8") "," TENSOR("v", "[2,2,1]", "8", "16") "," TENSOR(
                     "q", "[1,2,2]", "16", "24"),
                 24, "layers.3.v: the metadata ask for shape [2, 1, 2]");
    dump_refused("\"tokens\":\"2\",\"q_first\":\"2\",\"kv_heads\":\"1\",\"q_heads\":\"2\","
                 "\"head_dim\":\"2\"," REST,
                 TENSORS, 24, "\"q_first\" is \"2\"");
    dump_refused("\"tokens\":\"2\",\"q_first\":\"1\",\"kv_heads\":\"2\",\"q_heads\":\"3\","
                 "\"head_dim\":\"2\"," REST,
                 TENSORS, 24, "q_heads 3 is no multiple of kv_heads 2");
    dump_refused(
        META REST,
        "\"layers.3.k\":{\"dtype\":\"I16\",\"shape\":[2,1,2],\"data_offsets\":[0,8]}," TENSOR(
            "v", "[2,1,2]", "8", "16") "," TENSOR("q", "[1,2,2]", "16", "24"),
        24, "layers.3.k: dtype is I16");
}
