/* SPDX-License-Identifier: Apache-2.0 */
/* What the sequence files share: identity of a sequence, entering and leaving a call. */
#ifndef AKV_SEQ_H
#define AKV_SEQ_H
#include "cache.h"

/* Checks the options and computes the root of the chain of keys. */
anykv_status akv_seq_identity(const anykv_cache *cache, const anykv_seq_options *options,
                              anykv_seq_options *checked, akv_digest *root_out);
/* Rungs of the ladder that a sequence with these options accepts. */
static inline uint8_t akv_seq_rungs(const anykv_seq_options *options)
{
    return (uint8_t)(options->rungs < 255 ? options->rungs : 255);
}
/* Checks the handle and takes the cache's lock; on failure the lock is not held.  `change`: the
 * sequence must be in no step. */
anykv_status akv_seq_enter(const anykv_seq *seq, bool change);
/* The same for a change that evicts nothing: late uses may stay late. */
anykv_status akv_seq_enter_short(const anykv_seq *seq);
/* Lets the lock go and returns status. */
anykv_status akv_seq_leave(const anykv_seq *seq, anykv_status status);

/* Whose bytes a sequence's blocks hold; seq may be NULL unless it is private without a tenant. */
uint64_t akv_seq_tenant(const anykv_seq_options *options, const anykv_seq *seq);
/* What was said of the sequence's future holds for its i-th block from now on; under lock. */
void akv_seq_hint_node(anykv_seq *seq, uint32_t i);
/* First row of positions [first, first + count) (count 0: where a sequence of `first` positions ends).
 * E_NOT_FOUND, naming `what`: tokens among them were evicted, or may have been. */
anykv_status akv_seq_rows_of(const anykv_seq *seq, uint64_t first, uint64_t count, const char *what,
                             uint32_t *row_out);
/* The positions of an evicted sequence to a fork (false: out of memory), and after a cut. */
bool akv_seq_copy_kept(anykv_seq *copy, const anykv_seq *seq);
void akv_seq_cut_kept(anykv_seq *seq);

/* A use of the node and all before it, or its end, for the policy; under lock. */
void akv_seq_use_path(const anykv_seq *seq, uint32_t node, bool over);
/* Tells the policy of the sequence's request, once; under lock. */
void akv_seq_tell(anykv_seq *seq);

#endif
