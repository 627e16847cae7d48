/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics in the text format that Prometheus scrapes (exposition format 0.0.4). */
#include "cache.h"
#include <inttypes.h>
#include <stdio.h>

struct metric {
    const char *name, *label; /* label: inside the braces, or NULL */
    const char *type, *help;
    size_t offset;
};
#define GAUGE(name, label, field, help)                                                            \
    {                                                                                              \
        "anykv_" name, label, "gauge", help, offsetof(anykv_stats, field)                          \
    }
#define COUNTER(name, label, field, help)                                                          \
    {                                                                                              \
        "anykv_" name "_total", label, "counter", help, offsetof(anykv_stats, field)               \
    }

/* Metrics of one name stand together, as the format wants it. */
static const struct metric metrics[] = {
    GAUGE("budget_bytes", NULL, budget_bytes, "Bytes that the cache may hold on its device."),
    GAUGE("used_bytes", NULL, used_bytes, "Fixed bytes and chunks in use."),
    GAUGE("peak_bytes", NULL, peak_bytes, "Most bytes ever used."),
    GAUGE("fixed_bytes", NULL, fixed_bytes, "Bytes held whatever the pool holds."),
    GAUGE("pool_bytes", NULL, pool_bytes, "Device bytes allocated for blocks."),
    GAUGE("fragmentation_bytes", NULL, fragmentation_bytes,
          "Bytes of chunks in use that no block takes."),
    GAUGE("block_bytes", "kind=\"hot\"", hot_bytes, "Bytes of blocks by kind."),
    GAUGE("block_bytes", "kind=\"sealed\"", sealed_bytes, NULL),
    GAUGE("block_bytes", "kind=\"rung1\"", rung_bytes[0], NULL),
    GAUGE("block_bytes", "kind=\"rung2\"", rung_bytes[1], NULL),
    GAUGE("block_bytes", "kind=\"rung3\"", rung_bytes[2], NULL),
    GAUGE("block_bytes", "kind=\"rung4\"", rung_bytes[3], NULL),
    GAUGE("blocks", "kind=\"hot\"", hot_blocks, "Blocks by kind."),
    GAUGE("blocks", "kind=\"sealed\"", sealed_blocks, NULL),
    GAUGE("blocks", "kind=\"rung1\"", rung_blocks[0], NULL),
    GAUGE("blocks", "kind=\"rung2\"", rung_blocks[1], NULL),
    GAUGE("blocks", "kind=\"rung3\"", rung_blocks[2], NULL),
    GAUGE("blocks", "kind=\"rung4\"", rung_blocks[3], NULL),
    GAUGE("compressed_blocks", "method=\"bx16\"", compressed[0].blocks, "Compressed blocks by method."),
    GAUGE("compressed_bytes", "method=\"bx16\"", compressed[0].bytes, "Bytes that they take."),
    GAUGE("compressed_plain_bytes", "method=\"bx16\"", compressed[0].plain_bytes, "Bytes that they would take."),
    GAUGE("cached_blocks", NULL, cached_blocks, "Blocks that no sequence references."),
    GAUGE("device_bytes", NULL, device_bytes_total, "Memory of the device; 0: unknown."),
    GAUGE("device_free_bytes", NULL, device_bytes_free, "Of that, free; 0: unknown."),
    GAUGE("host_bytes", NULL, host_bytes, "Host memory of the context's objects."),
    GAUGE("sequences", NULL, sequences, "Sequences that exist."),
    COUNTER("steps", NULL, steps, "Steps ended."),
    COUNTER("tokens_appended", NULL, tokens_appended, "Tokens that steps' ends accepted."),
    COUNTER("tokens_attended", NULL, tokens_attended, "Query tokens, each layer counted."),
    COUNTER("blocks_named", NULL, blocks_named, "Blocks named in the prefix index."),
    COUNTER("blocks_reused", NULL, blocks_reused, "Blocks that matches took from the index."),
    COUNTER("blocks_new", NULL, blocks_new, "Blocks taken from the pool."),
    COUNTER("blocks_sealed", NULL, blocks_sealed, "Blocks quantised."),
    COUNTER("blocks_lowered", NULL, blocks_lowered, "Steps down of the precision ladder."),
    COUNTER("lowered_bytes", NULL, lowered_bytes, "Bytes that steps down freed."),
    COUNTER("blocks_compressed", "method=\"bx16\"", compressed[0].blocks_compressed, "Blocks compressed in place."),
    COUNTER("compressed_saved_bytes", "method=\"bx16\"", compressed[0].bytes_saved, "Bytes that this freed."),
    COUNTER("blocks_read_back", "method=\"bx16\"", compressed[0].blocks_read_back, "Compressed blocks read back."),
    COUNTER("blocks_incompressible", "method=\"bx16\"", compressed[0].grown,
            "Blocks that would not have become smaller."),
    COUNTER("blocks_damaged", "method=\"bx16\"", compressed[0].blocks_damaged,
            "Compressed blocks found damaged."),
    COUNTER("blocks_restored", NULL, blocks_restored,
            "Lowered blocks replaced by rows computed anew."),
    COUNTER("blocks_evicted", NULL, blocks_evicted, "Blocks evicted."),
    COUNTER("evicted_bytes", NULL, evicted_bytes, "Bytes that eviction freed."),
    COUNTER("blocks_copied", NULL, blocks_copied, "Shared blocks copied before a write."),
    COUNTER("blocks_moved", NULL, blocks_moved, "Blocks relocated."),
    COUNTER("lookups", NULL, lookups, "Matches and lookups."),
    COUNTER("lookup_tokens", NULL, lookup_tokens, "Tokens they asked for."),
    COUNTER("hit_tokens", NULL, hit_tokens, "Tokens they found."),
    COUNTER("precision_misses", NULL, precision_misses,
            "Lookups that ended at a block of too low a precision."),
    COUNTER("budget_refusals", NULL, budget_refusals, "Steps refused for want of room."),
    COUNTER("tokens_evicted", NULL, tokens_evicted, "Tokens evicted from sequences that go on."),
    COUNTER("device_retries", NULL, device_retries,
            "Device allocations that were refused once and tried again."),
};

anykv_status anykv_cache_metrics(anykv_cache *cache, char *text, size_t text_bytes,
                                 size_t *needed_out)
{
    if (!cache || !needed_out || (!text && text_bytes))
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        !cache        ? "cache"
                        : !needed_out ? "needed_out"
                                      : "text");
    anykv_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    anykv_status status = anykv_cache_stats(cache, &stats);
    if (status)
        return status;
    size_t at = 0;
    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
        const struct metric *m = &metrics[i];
        uint64_t value;
        char line[320];
        memcpy(&value, (const uint8_t *)&stats + m->offset, sizeof value);
        int n = 0;
        if (m->help)
            n = snprintf(line, sizeof line, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help,
                         m->name, m->type);
        n += snprintf(line + n, sizeof line - (size_t)n, "%s%s%s%s %" PRIu64 "\n", m->name,
                      m->label ? "{" : "", m->label ? m->label : "", m->label ? "}" : "", value);
        for (int c = 0; c < n; c++, at++)
            if (at + 1 < text_bytes)
                text[at] = line[c];
    }
    if (text_bytes)
        text[at < text_bytes ? at : text_bytes - 1] = '\0';
    *needed_out = at + 1;
    return at + 1 > text_bytes && text_bytes
               ? akv_fail(cache->context, ANYKV_E_SHAPE, "text_bytes: %zu, the text has %zu",
                          text_bytes, at + 1)
               : ANYKV_OK;
}
