/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of rows: sequences that lose tokens by themselves, at the ends of their steps. */
#include "evict_tokens.h"
#include "seq.h"

/* The least that an eviction can leave, and room to choose. */
static uint64_t least_rows(const anykv_cache_options *options, uint32_t block_tokens)
{
    return (uint64_t)options->sinks + options->recent + 2ull * block_tokens;
}

anykv_status akv_limit_check(anykv_context *context, anykv_cache_options *options,
                             uint32_t block_tokens)
{
    const uint32_t policy = options->token_policy;
    if (policy == 0 && options->token_budget)
        return akv_fail(context, ANYKV_E_ARG, "token_budget: %u without a token_policy",
                        options->token_budget);
    if (policy == 0)
        return ANYKV_OK;
    if (policy > ANYKV_TOKENS_RATIO)
        return akv_fail(context, ANYKV_E_ARG,
                        "token_policy: %u is none of those that need nothing from the caller", policy);
    if (options->recent < AKV_EVICT_RECENT)
        return akv_fail(context, ANYKV_E_ARG, "recent: %u; token_policy keeps the last %u at least",
                        options->recent, AKV_EVICT_RECENT);
    if (options->token_budget && options->token_budget < least_rows(options, block_tokens))
        return akv_fail(context, ANYKV_E_ARG, "token_budget: %u is below %llu", options->token_budget,
                        (unsigned long long)least_rows(options, block_tokens));
    options->flags |= ANYKV_CACHE_EVICT_TOKENS;
    return ANYKV_OK;
}

anykv_status anykv_seq_limit_tokens(anykv_seq *seq, uint64_t rows)
{
    anykv_status status = akv_seq_enter(seq, true);
    if (status)
        return status;
    const anykv_cache *cache = seq->cache;
    const anykv_cache_options *options = &cache->plan.options;
    const uint64_t least = least_rows(options, akv_block_tokens(cache));
    if (options->token_policy == 0)
        status = akv_fail(cache->context, ANYKV_E_STATE, "seq: its cache has no token_policy");
    else if (rows && (rows < least || rows > UINT32_MAX))
        status = akv_fail(cache->context, ANYKV_E_ARG, "rows: %llu is not between %llu and %u",
                          (unsigned long long)rows, (unsigned long long)least, UINT32_MAX);
    else
        seq->token_budget = (uint32_t)rows;
    return akv_seq_leave(seq, status);
}

static bool over(const anykv_seq *seq, uint64_t rows)
{
    return seq->token_budget &&
           rows > (uint64_t)seq->token_budget + seq->cache->plan.options.token_every;
}

bool akv_limit_due(const anykv_step *step, const uint32_t *accepted)
{
    bool due = false;
    for (uint32_t i = 0; i < step->n; i++)
        due = due || over(step->seqs[i], (uint64_t)step->seqs[i]->length +
                                             (accepted ? accepted[i] : step->counts[i]));
    return due;
}

void akv_limit_apply(anykv_step *step)
{
    const anykv_cache_options *options = &step->cache->plan.options;
    for (uint32_t i = 0; i < step->n; i++) {
        anykv_seq *seq = step->seqs[i];
        anykv_evict_params params = ANYKV_EVICT_PARAMS_INIT;
        if (!over(seq, seq->length) || seq->dead || seq->destroyed)
            continue;
        params.policy = (anykv_token_policy)options->token_policy;
        params.keep = seq->token_budget;
        params.sinks = options->sinks;
        params.recent = options->recent;
        if (akv_seq_evict(seq, &params))
            akv_log(step->cache->context, ANYKV_LOG_WARNING, "token_budget: %s",
                    anykv_error_detail());
    }
}
