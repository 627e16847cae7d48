/* SPDX-License-Identifier: Apache-2.0 */
/* Tenants: guaranteed and greatest bytes, and a part of the policy for each. */
#include "seq.h"

static uint32_t find(const anykv_cache *cache, uint64_t tenant)
{
    for (uint32_t p = 1; p < cache->tenants; p++)
        if (cache->tenant[p].digest == tenant)
            return p;
    return 0;
}

uint32_t akv_tenant_part(const anykv_cache *cache, uint64_t tenant)
{
    return find(cache, tenant);
}

/* Bytes of all blocks that one node can hold: what one eviction can take at most. */
static uint64_t node_bytes(const anykv_cache *cache)
{
    uint64_t bytes = 0;
    for (uint32_t g = 0; g < cache->layout->group_count; g++)
        bytes += cache->pool.class_[AKV_CLASS(g, AKV_KIND_HOT)].block_bytes;
    return bytes;
}

void akv_tenants_spare(anykv_cache *cache, uint64_t asking)
{
    uint64_t spared = 0;
    for (uint32_t p = 1; p < cache->tenants; p++)
        if (!(asking >> p & 1u) && cache->tenant[p].guaranteed != 0 &&
            cache->pool.part_bytes[p] < cache->tenant[p].guaranteed + node_bytes(cache))
            spared |= (uint64_t)1 << p;
    cache->prefix.spared = spared;
}

anykv_status akv_tenants_admit(anykv_cache *cache, uint64_t asking)
{
    cache->asking = asking;
    for (uint32_t p = 1; p < cache->tenants; p++) {
        const struct akv_tenant *tenant = &cache->tenant[p];
        const uint64_t need = tenant->need;
        while (need && tenant->limit && cache->pool.part_bytes[p] + need > tenant->limit) {
            const uint32_t node = akv_evict_first(&cache->prefix.evict, p);
            if (node != AKV_NO_ID) {
                akv_cache_evict(cache, node);
                continue;
            }
            cache->count.budget_refusals++;
            akv_explain(cache, "refused a step: its tenant may hold %llu bytes",
                        (unsigned long long)tenant->limit);
            return akv_fail(cache->context, ANYKV_E_BUDGET,
                            "limit_bytes: the step needs %llu bytes of blocks, its tenant's "
                            "sequences hold %llu of %llu",
                            (unsigned long long)need, (unsigned long long)cache->pool.part_bytes[p],
                            (unsigned long long)tenant->limit);
        }
    }
    return ANYKV_OK;
}

void akv_tenants_need(anykv_cache *cache, uint32_t part, uint32_t group, uint32_t hot,
                      uint32_t sealed)
{
    cache->tenant[part].need +=
        (uint64_t)hot * cache->pool.class_[AKV_CLASS(group, AKV_KIND_HOT)].block_bytes +
        (uint64_t)sealed * cache->pool.class_[AKV_CLASS(group, AKV_KIND_SEALED)].block_bytes;
}

void akv_tenants_need_none(anykv_cache *cache)
{
    for (uint32_t p = 0; p < cache->tenants; p++)
        cache->tenant[p].need = 0;
}

/* ---- the caller's side ---- */

static anykv_status digest_of(anykv_cache *cache, const void *tenant, uint32_t tenant_bytes,
                              uint64_t *digest_out)
{
    anykv_seq_options options = ANYKV_SEQ_OPTIONS_INIT, checked;
    akv_digest root;
    options.tenant = tenant;
    options.tenant_bytes = tenant_bytes;
    options.flags = tenant_bytes ? 0 : ANYKV_SEQ_PUBLIC;
    anykv_status status = akv_seq_identity(cache, &options, &checked, &root);
    if (!status)
        *digest_out = akv_seq_tenant(&checked, NULL);
    return status;
}

anykv_status anykv_cache_set_tenant(anykv_cache *cache, const anykv_tenant_options *options)
{
    if (!cache || !options)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        cache ? "options" : "cache");
    anykv_tenant_options checked = ANYKV_TENANT_OPTIONS_INIT;
    uint64_t digest;
    anykv_status status =
        akv_options(cache->context, "tenant options", &checked, sizeof checked, options);
    if (!status)
        status = digest_of(cache, checked.tenant, checked.tenant_bytes, &digest);
    if (!status && checked.limit_bytes && checked.limit_bytes < checked.guaranteed_bytes)
        status = akv_fail(
            cache->context, ANYKV_E_ARG, "limit_bytes: %llu is below guaranteed_bytes, %llu",
            (unsigned long long)checked.limit_bytes, (unsigned long long)checked.guaranteed_bytes);
    if (status)
        return status;
    akv_mutex_lock(&cache->lock);
    uint32_t part = find(cache, digest);
    uint64_t guaranteed = checked.guaranteed_bytes;
    const uint64_t pool = (uint64_t)cache->pool.present * cache->pool.chunk_bytes;
    for (uint32_t p = 1; p < cache->tenants; p++)
        if (p != part && guaranteed <= pool)
            guaranteed += cache->tenant[p].guaranteed;
    if (guaranteed > pool)
        status = akv_fail(cache->context, ANYKV_E_BUDGET,
                          "guaranteed_bytes: with the other tenants' more than the pool's %llu",
                          (unsigned long long)pool);
    if (!status && part == 0) {
        /* Ghosts for as many blocks as the tenant can hold. */
        const uint64_t share = checked.limit_bytes / (node_bytes(cache) ? node_bytes(cache) : 1);
        status = akv_evict_add_part(&cache->prefix.evict, share, &part);
        if (!status) {
            akv_mutex_lock(&cache->list_lock);
            cache->tenants = part + 1;
            cache->tenant[part].digest = digest;
            akv_mutex_unlock(&cache->list_lock);
        }
    }
    if (!status) {
        cache->tenant[part].guaranteed = checked.guaranteed_bytes;
        cache->tenant[part].limit = checked.limit_bytes;
    }
    akv_mutex_unlock(&cache->lock);
    return status;
}

anykv_status anykv_cache_tenant_bytes(anykv_cache *cache, const void *tenant, uint32_t tenant_bytes,
                                      uint64_t *bytes_out)
{
    if (!cache || !bytes_out)
        return akv_fail(cache ? cache->context : NULL, ANYKV_E_ARG, "%s: NULL",
                        cache ? "bytes_out" : "cache");
    uint64_t digest;
    anykv_status status = digest_of(cache, tenant, tenant_bytes, &digest);
    if (status)
        return status;
    akv_mutex_lock(&cache->lock);
    const uint32_t part = find(cache, digest);
    if (part == 0)
        status = akv_fail(cache->context, ANYKV_E_NOT_FOUND, "tenant: not set");
    else
        *bytes_out = cache->pool.part_bytes[part];
    akv_mutex_unlock(&cache->lock);
    return status;
}
