/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of built programs on disk: files that are whole, ours and of this very key, or nothing.
 *
 * A file is a header of 80 bytes, then the driver's binary:
 *     0  "AKVCLB01"                 8  u64 bytes of the binary
 *    16  key (32)                  48  SHA-256 of key and binary (32)
 * Drivers abort the process on truncated binaries, so nothing reaches them unchecked. */
#include "cl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC        "AKVCLB01"
#define HEADER_BYTES 80u
#define MAX_BINARY   ((uint64_t)256 << 20)

static akv_digest checksum(const akv_digest *key, const uint8_t *binary, size_t bytes)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, key->byte, sizeof key->byte);
    akv_sha256_update(&state, binary, bytes);
    return akv_sha256_final(&state);
}

/* Makes and opens one folder; it must be ours and, where `private` says so, closed to others. */
static int open_folder(int parent, const char *name, bool private)
{
    struct stat about;
    if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
        return -1;
    int folder =
        openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (private ? O_NOFOLLOW : 0));
    if (folder < 0)
        return -1;
    if (fstat(folder, &about) != 0 ||
        (private && (about.st_uid != geteuid() || (about.st_mode & 077) != 0))) {
        (void)close(folder);
        errno = EPERM;
        return -1;
    }
    return folder;
}

/* $XDG_CACHE_HOME/anykv, else ~/.cache/anykv; -1: there is none, a reason was logged. */
static int open_cache(anykv_context *context)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool own = cache && cache[0] == '/'; /* the XDG rule: a relative path counts as unset */
    if (!own && (!home || home[0] != '/'))
        return -1;
    int top =
        own ? open_folder(AT_FDCWD, cache, false) : open(home, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int folder = top;
    if (top >= 0 && !own) {
        folder = open_folder(top, ".cache", false);
        (void)close(top);
    }
    int result = folder >= 0 ? open_folder(folder, "anykv", true) : -1;
    int why = errno;
    if (folder >= 0)
        (void)close(folder);
    if (result < 0)
        akv_log(context, ANYKV_LOG_WARNING, "opencl: no program cache at %s%s: %s",
                own ? cache : home, own ? "/anykv" : "/.cache/anykv",
                why == EPERM ? "the folder is not ours alone (mode 0700)" : strerror(why));
    return result;
}

static void file_name(const akv_digest *key, char name[72])
{
    for (size_t i = 0; i < sizeof key->byte; i++)
        snprintf(name + 2 * i, 3, "%02x", key->byte[i]);
    snprintf(name + 64, 8, ".clb");
}

static bool read_all(int file, uint8_t *into, size_t bytes)
{
    while (bytes) {
        ssize_t got = read(file, into, bytes);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        into += got;
        bytes -= (size_t)got;
    }
    return true;
}

static bool write_all(int file, const uint8_t *from, size_t bytes)
{
    while (bytes) {
        ssize_t put = write(file, from, bytes);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false;
        from += put;
        bytes -= (size_t)put;
    }
    return true;
}

static anykv_status read_file(anykv_context *context, int file, const akv_digest *key,
                              uint8_t **binary_out, size_t *bytes_out)
{
    struct stat about;
    uint8_t header[HEADER_BYTES];
    uint64_t bytes;
    if (fstat(file, &about) != 0 || !S_ISREG(about.st_mode) || about.st_uid != geteuid() ||
        (uint64_t)about.st_size <= HEADER_BYTES ||
        (uint64_t)about.st_size > MAX_BINARY + HEADER_BYTES)
        return ANYKV_OK;
    if (!read_all(file, header, sizeof header) || memcmp(header, MAGIC, 8) != 0 ||
        memcmp(header + 16, key->byte, sizeof key->byte) != 0)
        return ANYKV_OK;
    memcpy(&bytes, header + 8, sizeof bytes);
    if (bytes != (uint64_t)about.st_size - HEADER_BYTES)
        return ANYKV_OK;
    uint8_t *binary = akv_alloc(context, 1, (size_t)bytes);
    if (!binary)
        return ANYKV_E_MEMORY;
    if (read_all(file, binary, (size_t)bytes)) {
        akv_digest sum = checksum(key, binary, (size_t)bytes);
        if (memcmp(sum.byte, header + 48, sizeof sum.byte) == 0) {
            *bytes_out = (size_t)bytes;
            *binary_out = binary;
            return ANYKV_OK;
        }
    }
    akv_free(context, binary);
    return ANYKV_OK;
}

anykv_status akv_cl_cache_read(anykv_context *context, const akv_digest *key, uint8_t **binary_out,
                               size_t *bytes_out)
{
    char name[72];
    int folder = open_cache(context);
    *binary_out = NULL;
    if (folder < 0)
        return ANYKV_OK;
    file_name(key, name);
    int file = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    anykv_status status = ANYKV_OK;
    if (file >= 0) {
        status = read_file(context, file, key, binary_out, bytes_out);
        if (!status && !*binary_out)
            akv_log(context, ANYKV_LOG_INFO,
                    "opencl: cached program %.16s is damaged, building anew", name);
        (void)close(file);
    }
    (void)close(folder);
    return status;
}

static bool write_file(int file, const akv_digest *key, const uint8_t *binary, size_t bytes)
{
    uint8_t header[HEADER_BYTES];
    uint64_t length = bytes;
    akv_digest sum = checksum(key, binary, bytes);
    memcpy(header, MAGIC, 8);
    memcpy(header + 8, &length, 8);
    memcpy(header + 16, key->byte, 32);
    memcpy(header + 48, sum.byte, 32);
    return write_all(file, header, sizeof header) && write_all(file, binary, bytes);
}

void akv_cl_cache_write(anykv_context *context, const akv_digest *key, const uint8_t *binary,
                        size_t bytes)
{
    char name[72], draft[96];
    if (!bytes || bytes > MAX_BINARY)
        return;
    int folder = open_cache(context);
    if (folder < 0)
        return;
    file_name(key, name);
    /* Two threads of one process may write one program at once: the address of a local tells them
     * apart, O_EXCL the rest. */
    snprintf(draft, sizeof draft, ".%.16s.%ld.%llx", name, (long)getpid(),
             (unsigned long long)(uintptr_t)draft);
    int file = openat(folder, draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool written = file >= 0 && write_file(file, key, binary, bytes);
    if (file >= 0 && close(file) != 0)
        written = false;
    if (written)
        written = renameat(folder, draft, folder, name) == 0;
    if (!written) {
        akv_log(context, ANYKV_LOG_WARNING, "opencl: program was not cached: %s", strerror(errno));
        if (file >= 0)
            (void)unlinkat(folder, draft, 0);
    }
    (void)close(folder);
}
