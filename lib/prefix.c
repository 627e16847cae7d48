/* SPDX-License-Identifier: Apache-2.0 */
/* Prefix index: chain keys, the tree's counts. */
#include "prefix.h"

#define FIRST_NODES 64u

/* ---- keys ---- */

akv_digest akv_prefix_root(const uint8_t identity[32], const void *tenant, uint32_t tenant_bytes,
                           const void *extra, uint32_t extra_bytes)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, "anykv1", 6);
    akv_sha256_update(&state, identity, 32);
    akv_sha256_u32(&state, tenant_bytes);
    if (tenant_bytes)
        akv_sha256_update(&state, tenant, tenant_bytes);
    if (extra_bytes)
        akv_sha256_update(&state, extra, extra_bytes);
    return akv_sha256_final(&state);
}

akv_digest akv_prefix_key(const akv_digest *parent, const uint32_t *tokens, uint32_t count)
{
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, parent->byte, sizeof parent->byte);
    akv_sha256_update(&state, tokens,
                      (size_t)count * sizeof *tokens); /* little-endian hosts only */
    return akv_sha256_final(&state);
}

akv_digest akv_prefix_key_of(uint64_t id)
{
    akv_digest key;
    memset(&key, 0, sizeof key);
    /* Finaliser of a 64-bit mixer, so that neighbouring ids do not share a run of slots. */
    uint64_t x = id + 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    memcpy(key.byte, &x, sizeof x);
    memcpy(key.byte + 8, &id, sizeof id);
    return key;
}

/* ---- memory ---- */

anykv_status akv_prefix_reserve(struct akv_prefix *prefix, uint32_t more)
{
    anykv_context *context = prefix->context;
    if (more > 0x3FFFFFFFu - prefix->count)
        return akv_fail(context, ANYKV_E_MEMORY, "prefix index: more than 2^30 blocks");
    const uint32_t need = prefix->count + more, old = prefix->capacity;
    anykv_status status = akv_find_reserve(&prefix->find, need);
    if (status || need <= old)
        return status;
    uint32_t capacity = old ? old : FIRST_NODES;
    while (capacity < need)
        capacity *= 2;
    status = akv_evict_reserve(&prefix->evict, capacity);
    if (!status)
        status = akv_terms_reserve(&prefix->terms, context, capacity);
    if (status)
        return status;
    if (prefix->groups) {
        uint32_t *blocks = akv_resize(context, prefix->blocks, (size_t)old * prefix->groups,
                                      (size_t)capacity * prefix->groups, sizeof *blocks);
        if (!blocks)
            return ANYKV_E_MEMORY;
        prefix->blocks = blocks;
    }
    struct akv_node *nodes = akv_resize(context, prefix->nodes, old, capacity, sizeof *nodes);
    if (!nodes)
        return ANYKV_E_MEMORY;
    prefix->nodes = nodes;
    for (uint32_t i = capacity; i-- > old;) {
        nodes[i].parent = prefix->free_node;
        prefix->free_node = i;
    }
    prefix->capacity = capacity;
    return ANYKV_OK;
}

anykv_status akv_prefix_init(struct akv_prefix *prefix, anykv_context *context, uint32_t groups,
                             anykv_policy policy)
{
    memset(prefix, 0, sizeof *prefix);
    prefix->context = context;
    prefix->groups = prefix->find.groups = groups;
    prefix->find.context = context;
    prefix->free_node = AKV_NO_ID;
    anykv_status status = akv_evict_init(&prefix->evict, context, policy);
    if (!status)
        status = akv_prefix_reserve(prefix, FIRST_NODES);
    if (status)
        akv_prefix_finish(prefix);
    return status;
}

void akv_prefix_finish(struct akv_prefix *prefix)
{
    akv_free(prefix->context, prefix->nodes);
    akv_free(prefix->context, prefix->blocks);
    akv_find_finish(&prefix->find);
    prefix->nodes = NULL;
    prefix->blocks = NULL;
    prefix->capacity = prefix->count = 0;
    akv_evict_finish(&prefix->evict);
    akv_terms_finish(&prefix->terms);
}

/* ---- counts ---- */

static void update_candidate(struct akv_prefix *prefix, uint32_t node)
{
    if (!akv_prefix_busy(prefix, node) && prefix->nodes[node].children == 0)
        akv_evict_enter(&prefix->evict, node);
    else
        akv_evict_leave(&prefix->evict, node);
}

static void tell(struct akv_prefix *prefix, uint32_t node, bool idle)
{
    update_candidate(prefix, node);
    if (prefix->on_idle)
        prefix->on_idle(prefix->user, node, idle);
}

/* The node has just become busy, or idle: its ancestors follow as far as that changes them. */
static void became_busy(struct akv_prefix *prefix, uint32_t node)
{
    for (;;) {
        tell(prefix, node, false);
        node = prefix->nodes[node].parent;
        if (node == AKV_NO_ID)
            return;
        const bool was = akv_prefix_busy(prefix, node);
        prefix->nodes[node].busy_children++;
        if (was)
            return;
    }
}

static void became_idle(struct akv_prefix *prefix, uint32_t node)
{
    for (;;) {
        tell(prefix, node, true);
        node = prefix->nodes[node].parent;
        if (node == AKV_NO_ID)
            return;
        assert(prefix->nodes[node].busy_children > 0);
        prefix->nodes[node].busy_children--;
        if (akv_prefix_busy(prefix, node))
            return;
    }
}

void akv_prefix_hold(struct akv_prefix *prefix, uint32_t node)
{
    const bool was = akv_prefix_busy(prefix, node);
    prefix->nodes[node].users++;
    if (!was)
        became_busy(prefix, node);
}

void akv_prefix_drop(struct akv_prefix *prefix, uint32_t node)
{
    assert(prefix->nodes[node].users > 0);
    prefix->nodes[node].users--;
    if (!akv_prefix_busy(prefix, node))
        became_idle(prefix, node);
}

void akv_prefix_pin(struct akv_prefix *prefix, uint32_t node)
{
    const bool was = akv_prefix_busy(prefix, node);
    prefix->nodes[node].pins++;
    if (!was)
        became_busy(prefix, node);
}

void akv_prefix_unpin(struct akv_prefix *prefix, uint32_t node)
{
    if (prefix->nodes[node].pins == 0)
        return;
    prefix->nodes[node].pins--;
    if (!akv_prefix_busy(prefix, node))
        became_idle(prefix, node);
}

/* ---- uses ---- */

void akv_prefix_use_path(struct akv_prefix *prefix, uint32_t node, bool over)
{
    const double now = prefix->evict.now;
    for (uint32_t i = prefix->lates; i-- > 0;) {
        struct akv_late *late = &prefix->late[i];
        if (late->node == node && late->over == over && now - late->time < AKV_BURST) {
            const struct akv_late one = {node, over, now};
            memmove(late, late + 1, (prefix->lates - 1 - i) * sizeof *late);
            prefix->late[prefix->lates - 1] = one;
            return;
        }
    }
    if (prefix->lates == AKV_LATE)
        akv_prefix_catch_up(prefix);
    prefix->late[prefix->lates++] = (struct akv_late){node, over, now};
}

void akv_prefix_catch_up(struct akv_prefix *prefix)
{
    struct akv_evict *evict = &prefix->evict;
    const double now = evict->now;
    const uint32_t count = prefix->lates;
    prefix->lates = 0; /* what is called below catches up itself */
    for (uint32_t i = 0; i < count; i++) {
        const struct akv_late *late = &prefix->late[i];
        evict->now = late->time;
        for (uint32_t node = late->node; node != AKV_NO_ID; node = prefix->nodes[node].parent)
            if (late->over)
                akv_prefix_renew(prefix, node);
            else
                akv_prefix_touch(prefix, node);
    }
    evict->now = now;
}

double akv_prefix_age(const struct akv_prefix *prefix, uint32_t node)
{
    for (uint32_t i = prefix->lates; i-- > 0;)
        if (prefix->late[i].node == node)
            return prefix->evict.now - prefix->late[i].time;
    return akv_evict_age(&prefix->evict, node);
}

void akv_prefix_touch(struct akv_prefix *prefix, uint32_t node)
{
    akv_prefix_catch_up(prefix);
    akv_evict_touch(&prefix->evict, node, akv_find_tag(&prefix->find, node));
}

void akv_prefix_renew(struct akv_prefix *prefix, uint32_t node)
{
    akv_prefix_catch_up(prefix);
    akv_evict_renew(&prefix->evict, node);
}

void akv_prefix_end(struct akv_prefix *prefix, uint32_t node)
{
    akv_evict_end(&prefix->evict, prefix->evict.entry[node].part,
                  akv_find_tag(&prefix->find, node));
}

void akv_prefix_request(struct akv_prefix *prefix, const uint32_t *nodes, uint32_t count)
{
    struct akv_evict *evict = &prefix->evict;
    bool ended = false, asked = false;
    akv_prefix_catch_up(prefix);
    for (uint32_t i = count; i-- > 0;) {
        const struct akv_evict_entry *e = &evict->entry[nodes[i]];
        const double age = akv_evict_age(evict, nodes[i]);
        /* The gap is that of the deepest block seen before, if it is no start that many share. */
        if (age >= 0.0 && !asked) {
            asked = true;
            if (prefix->nodes[nodes[i]].fan_out <= 2)
                akv_evict_gap(evict, e->part, age);
        }
        if (!ended && !(e->flags & AKV_EVICT_PARTIAL)) {
            akv_prefix_end(prefix, nodes[i]);
            ended = true;
        }
        akv_prefix_touch(prefix, nodes[i]);
    }
    if (count)
        akv_evict_request(evict, evict->entry[nodes[0]].part);
}

void akv_prefix_demote(struct akv_prefix *prefix, uint32_t node)
{
    akv_prefix_catch_up(prefix);
    akv_evict_demote(&prefix->evict, node, akv_find_tag(&prefix->find, node));
}

/* ---- what holds for a while ---- */

#define TERMS_A_CALL 16u

/* Terms are kept from the first time on, so that none of them is 0, which says "none". */
static double term_time(const struct akv_prefix *prefix, double seconds)
{
    return seconds - prefix->evict.epoch + 1.0;
}

static void end_term(struct akv_prefix *prefix, uint32_t node, enum akv_term_kind kind)
{
    switch (kind) {
    case AKV_TERM_BAND:
        akv_evict_band(&prefix->evict, node, AKV_BAND_DEFAULT);
        break;
    case AKV_TERM_LEASE:
        akv_prefix_unpin(prefix, node);
        if (prefix->on_idle) /* its blocks may go although its users stay */
            prefix->on_idle(prefix->user, node, !akv_prefix_busy(prefix, node));
        break;
    default: /* the use comes near */
        akv_evict_expect(&prefix->evict, node,
                         prefix->evict.now + akv_evict_horizon(&prefix->evict, node));
    }
}

void akv_prefix_clock(struct akv_prefix *prefix, double seconds)
{
    uint32_t node;
    enum akv_term_kind kind;
    akv_evict_clock(&prefix->evict, seconds);
    for (uint32_t i = 0; i < TERMS_A_CALL; i++) {
        if (!akv_terms_over(&prefix->terms, term_time(prefix, prefix->evict.now), &node, &kind))
            return;
        end_term(prefix, node, kind);
    }
}

bool akv_prefix_end_terms(struct akv_prefix *prefix)
{
    const uint32_t before = prefix->terms.count;
    uint32_t node;
    enum akv_term_kind kind;
    while (akv_terms_over(&prefix->terms, term_time(prefix, prefix->evict.now), &node, &kind))
        end_term(prefix, node, kind);
    return prefix->terms.count != before;
}

void akv_prefix_retain(struct akv_prefix *prefix, uint32_t node, uint32_t band, double until)
{
    const double before = akv_terms_get(&prefix->terms, node, AKV_TERM_BAND);
    const uint32_t held = prefix->evict.entry[node].band;
    const double now = term_time(prefix, prefix->evict.now);
    until = term_time(prefix, until);
    if (until <= now || (before > now && (held > band || (held == band && before >= until))))
        return;
    akv_evict_band(&prefix->evict, node, band);
    akv_terms_set(&prefix->terms, node, AKV_TERM_BAND, until);
}

void akv_prefix_lease(struct akv_prefix *prefix, uint32_t node, double until)
{
    const double before = akv_terms_get(&prefix->terms, node, AKV_TERM_LEASE);
    until = term_time(prefix, until);
    if (until <= term_time(prefix, prefix->evict.now) || before >= until)
        return;
    if (before == 0.0) {
        akv_prefix_pin(prefix, node);
        if (prefix->on_idle)
            prefix->on_idle(prefix->user, node, false);
    }
    akv_terms_set(&prefix->terms, node, AKV_TERM_LEASE, until);
}

void akv_prefix_expect(struct akv_prefix *prefix, uint32_t node, double when)
{
    const double horizon = akv_evict_horizon(&prefix->evict, node);
    if (when - horizon > prefix->evict.now) { /* far: it ages as others until then */
        akv_terms_set(&prefix->terms, node, AKV_TERM_EXPECT, term_time(prefix, when - horizon));
        return;
    }
    akv_terms_set(&prefix->terms, node, AKV_TERM_EXPECT, 0.0);
    akv_evict_expect(&prefix->evict, node, when);
}

/* With what is over by now ended first: a priority or a lease must not outlive its time here. */
uint32_t akv_prefix_victim(struct akv_prefix *prefix)
{
    akv_prefix_catch_up(prefix);
    akv_prefix_clock(prefix, prefix->evict.now);
    const uint32_t node = akv_evict_victim(&prefix->evict, prefix->spared);
    if (node != AKV_NO_ID) { /* its removal needs all of these */
        akv_evict_prefetch(&prefix->evict, node, akv_find_tag(&prefix->find, node));
        const akv_digest key = akv_find_key(&prefix->find, node);
        akv_find_prefetch(&prefix->find, &key);
    }
    return node;
}

/* ---- lookup and change ---- */

uint32_t akv_prefix_find(const struct akv_prefix *prefix, const akv_digest *key)
{
    return akv_find_node(&prefix->find, key);
}

uint32_t akv_prefix_insert(struct akv_prefix *prefix, const akv_digest *key, uint32_t parent,
                           uint32_t part, bool partial)
{
    if (akv_prefix_reserve(prefix, 1))
        return AKV_NO_ID;
    const uint32_t node = prefix->free_node;
    struct akv_node *n = &prefix->nodes[node];
    assert(!n->used);
    prefix->free_node = n->parent;
    memset(n, 0, sizeof *n);
    n->parent = parent;
    n->used = true;
    n->users = 1;
    for (uint32_t g = 0; g < prefix->groups; g++)
        akv_prefix_blocks(prefix, node)[g] = AKV_NO_ID;
    akv_find_add(&prefix->find, key, node);
    prefix->count++;
    akv_evict_born(&prefix->evict, node, part, akv_find_tag(&prefix->find, node), partial);
    const struct akv_evict_entry *e = &prefix->evict.entry[node];
    n->fan_out = e->fan_out;
    if (parent != AKV_NO_ID) {
        struct akv_node *p = &prefix->nodes[parent];
        p->children++;
        n->depth = p->depth + 1;
        if (p->fan_out != UINT32_MAX && !(e->flags & AKV_EVICT_KNOWN)) /* else it came back */
            p->fan_out++;
        akv_evict_fan_out(&prefix->evict, parent, p->fan_out);
    }
    became_busy(prefix, node);
    if (parent != AKV_NO_ID)
        update_candidate(prefix, parent);
    return node;
}

void akv_prefix_withdraw(struct akv_prefix *prefix, uint32_t node)
{
    if (prefix->nodes[node].withdrawn)
        return;
    akv_find_remove(&prefix->find, node);
    prefix->nodes[node].withdrawn = true;
}

void akv_prefix_remove(struct akv_prefix *prefix, uint32_t node)
{
    struct akv_node *n = &prefix->nodes[node];
    assert(n->used && n->children == 0 && !akv_prefix_busy(prefix, node));
    akv_prefix_catch_up(prefix);
    akv_evict_gone(&prefix->evict, node, akv_find_tag(&prefix->find, node), !n->withdrawn);
    for (uint32_t kind = 0; kind < AKV_TERM_KINDS; kind++)
        akv_terms_set(&prefix->terms, node, (enum akv_term_kind)kind, 0.0);
    akv_prefix_withdraw(prefix, node);
    const uint32_t parent = n->parent;
    n->used = false;
    n->parent = prefix->free_node;
    prefix->free_node = node;
    prefix->count--;
    if (parent != AKV_NO_ID) {
        prefix->nodes[parent].children--;
        update_candidate(prefix, parent);
    }
}
