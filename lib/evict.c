/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction: parts, heaps of candidates, ghosts, and the table of policies. */
#include "evict.h"
#include <math.h>

#define LISTED     0x7FFFFFFFu /* place of a candidate in the policy's own order */
#define REKEY_STEP 8u          /* candidates moved over in one call */
#define TICKS      16.0        /* of a ghost's time in a second: 8 years before it wraps */

static const struct akv_policy *const policies[] = {
    &akv_policy_lru,      &akv_policy_lfu,     &akv_policy_fifo,
    &akv_policy_adaptive, &akv_policy_gittins, &akv_policy_caller,
};

const struct akv_policy *akv_policy_find(anykv_policy id)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (policies[i]->id == id)
            return policies[i];
    return NULL;
}

const struct akv_policy *akv_policy_parse(const char *name)
{
    for (size_t i = 0; name && i < sizeof policies / sizeof policies[0]; i++)
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    return NULL;
}

uint64_t akv_policy_real(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
    return bits >> (64 - AKV_KEY_BITS);
}

/* ---- keys: band, line or policy, what the policy says ---- */

static bool plain(const struct akv_evict_entry *e)
{
    return e->band == AKV_BAND_DEFAULT && !(e->flags & AKV_EVICT_LINE);
}

static uint64_t band_key(const struct akv_evict_entry *e, uint64_t key)
{
    return (uint64_t)e->band << (AKV_KEY_BITS + 1) |
           (uint64_t) !(e->flags & AKV_EVICT_LINE) << AKV_KEY_BITS | key;
}

static uint64_t key_of(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    return band_key(e, e->flags & AKV_EVICT_LINE ? e->stamp : evict->policy->key(evict, part, id));
}

static struct akv_evict_part *part_of(const struct akv_evict *evict, uint32_t id)
{
    return evict->part[evict->entry[id].part];
}

void akv_evict_rekey(struct akv_evict *evict, struct akv_evict_part *part)
{
    (void)evict;
    assert(!akv_evict_rekeying(part));
    part->now = !part->now;
}

/* Where a candidate stands; it stood nowhere. */
static void put_in(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id)
{
    if (part->lists && plain(&evict->entry[id])) {
        evict->place[id] = LISTED;
        part->listed++;
        evict->policy->enter(evict, part, id);
    } else
        akv_heap_add(evict, &part->heap[part->now], key_of(evict, part, id), id);
}

static void take_from(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id)
{
    const uint32_t place = evict->place[id];
    if (place == LISTED) {
        part->listed--;
        evict->policy->leave(evict, part, id);
    } else
        akv_heap_remove(evict, &part->heap[place >= AKV_HEAP_MARK], id);
    evict->place[id] = 0;
}

/* A bounded amount of what a change left to do. */
static void work(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_heap *old = &part->heap[!part->now];
    akv_heap_repair(evict, old);
    for (uint32_t i = 0; i < REKEY_STEP && old->count; i++)
        put_in(evict, part, akv_heap_at(old, --old->count)->id);
    for (uint32_t i = 0; i < REKEY_STEP && !part->lists && part->listed; i++) {
        const uint32_t id = evict->policy->first(evict, part);
        take_from(evict, part, id);
        put_in(evict, part, id);
    }
    if (evict->policy->work)
        evict->policy->work(evict, part);
}

/* ---- memory ---- */

static void place_heaps(struct akv_evict_part *part, uint32_t capacity)
{
    part->heap[0].base = part->items;
    part->heap[0].step = 1;
    part->heap[0].mark = 0;
    part->heap[1].base = capacity ? part->items + (capacity - 1) : part->items;
    part->heap[1].step = -1;
    part->heap[1].mark = AKV_HEAP_MARK;
}

static anykv_status reserve_part(struct akv_evict *evict, struct akv_evict_part *part, uint32_t old,
                                 uint32_t capacity)
{
    const uint64_t share = part->share && part->share < capacity ? part->share : capacity;
    anykv_status status = ANYKV_OK;
    if (evict->policy->ghosts)
        status = akv_ghosts_reserve(&part->ghosts, evict->context, share);
    if (status)
        return status;
    struct akv_evict_item *items =
        akv_resize(evict->context, part->items, old, capacity, sizeof *items);
    if (!items)
        return ANYKV_E_MEMORY;
    const uint32_t back = part->heap[1].count;
    memmove(items + (capacity - back), items + (old - back), back * sizeof *items);
    part->items = items;
    place_heaps(part, capacity);
    return ANYKV_OK;
}

anykv_status akv_evict_reserve(struct akv_evict *evict, uint32_t capacity)
{
    const uint32_t old = evict->capacity;
    if (capacity <= old)
        return ANYKV_OK;
    struct akv_evict_entry *entry =
        akv_resize(evict->context, evict->entry, old, capacity, sizeof *entry);
    if (!entry)
        return ANYKV_E_MEMORY;
    evict->entry = entry;
    uint32_t *place = akv_resize(evict->context, evict->place, old, capacity, sizeof *place);
    if (!place)
        return ANYKV_E_MEMORY;
    evict->place = place;
    if (evict->policy->id_bytes) {
        void *links =
            akv_resize(evict->context, evict->links, old, capacity, evict->policy->id_bytes);
        if (!links)
            return ANYKV_E_MEMORY;
        evict->links = links;
    }
    /* Parts that have been widened stay so when a later one fails: their heaps know by `room`. */
    for (uint32_t p = 0; p < evict->parts; p++) {
        struct akv_evict_part *part = evict->part[p];
        if (part->room >= capacity)
            continue;
        const anykv_status status = reserve_part(evict, part, part->room, capacity);
        if (status)
            return status;
        part->room = capacity;
    }
    evict->capacity = capacity;
    return ANYKV_OK;
}

static void free_part(struct akv_evict *evict, struct akv_evict_part *part)
{
    if (part->state && evict->policy->close)
        evict->policy->close(evict, part);
    akv_ghosts_finish(&part->ghosts);
    akv_free(evict->context, part->items);
    akv_free(evict->context, part->state);
    akv_free(evict->context, part);
}

anykv_status akv_evict_add_part(struct akv_evict *evict, uint64_t share, uint32_t *part_out)
{
    if (evict->parts == AKV_PARTS)
        return akv_fail(evict->context, ANYKV_E_ARG, "tenants: more than %u", AKV_PARTS - 1);
    struct akv_evict_part *part = akv_alloc(evict->context, 1, sizeof *part);
    if (!part)
        return ANYKV_E_MEMORY;
    part->share = share;
    place_heaps(part, 0);
    anykv_status status = ANYKV_OK;
    if (evict->policy->state_bytes) {
        part->state = akv_alloc(evict->context, 1, evict->policy->state_bytes);
        status = part->state ? ANYKV_OK : ANYKV_E_MEMORY;
    }
    if (!status && evict->policy->open)
        status = evict->policy->open(evict, part);
    if (!status && evict->capacity) {
        status = reserve_part(evict, part, 0, evict->capacity);
        part->room = evict->capacity;
    }
    if (status) {
        free_part(evict, part);
        return status;
    }
    *part_out = evict->parts;
    evict->part[evict->parts++] = part;
    return ANYKV_OK;
}

anykv_status akv_evict_init(struct akv_evict *evict, anykv_context *context, anykv_policy policy)
{
    uint32_t first;
    memset(evict, 0, sizeof *evict);
    evict->context = context;
    evict->policy = akv_policy_find(policy);
    if (!evict->policy)
        return akv_fail(context, ANYKV_E_ARG, "policy: %d is none of the known policies",
                        (int)policy);
    return akv_evict_add_part(evict, 0, &first);
}

void akv_evict_finish(struct akv_evict *evict)
{
    for (uint32_t p = 0; p < evict->parts; p++)
        free_part(evict, evict->part[p]);
    akv_free(evict->context, evict->entry);
    akv_free(evict->context, evict->place);
    akv_free(evict->context, evict->links);
    evict->entry = NULL;
    evict->place = NULL;
    evict->links = NULL;
    evict->capacity = evict->count = evict->parts = 0;
}

uint64_t akv_evict_host_bytes(const struct akv_evict *evict)
{
    uint64_t bytes = (uint64_t)evict->capacity * (sizeof(struct akv_evict_entry) +
                                                  sizeof *evict->place + evict->policy->id_bytes);
    for (uint32_t p = 0; p < evict->parts; p++)
        bytes += sizeof(struct akv_evict_part) + evict->policy->state_bytes +
                 (uint64_t)evict->part[p]->room * sizeof(struct akv_evict_item) +
                 akv_ghosts_bytes(&evict->part[p]->ghosts);
    return bytes;
}

/* ---- time and ghosts ---- */

void akv_evict_clock(struct akv_evict *evict, double seconds)
{
    if (!evict->started)
        evict->epoch = evict->now = seconds;
    evict->started = true;
    if (seconds > evict->now)
        evict->now = seconds;
}

static uint32_t ticks_of(const struct akv_evict *evict, double t)
{
    return t <= evict->epoch ? 0 : (uint32_t)(uint64_t)((t - evict->epoch) * TICKS);
}

static double time_of(const struct akv_evict *evict, uint32_t ticks)
{
    const double t = evict->epoch + ticks / TICKS;
    return t < evict->now ? t : evict->now;
}

static uint64_t tag_of(uint64_t tag)
{
    return tag ? tag : 1;
}

/* ---- candidates ---- */

void akv_evict_enter(struct akv_evict *evict, uint32_t id)
{
    assert(id < evict->capacity);
    if (evict->place[id] != 0)
        return;
    evict->count++;
    put_in(evict, part_of(evict, id), id);
}

void akv_evict_leave(struct akv_evict *evict, uint32_t id)
{
    assert(id < evict->capacity);
    if (evict->place[id] == 0)
        return;
    evict->count--;
    take_from(evict, part_of(evict, id), id);
}

/* Around a change of an entry's place in the order: takes a candidate out, and back in. */
static bool take_out(struct akv_evict *evict, uint32_t id)
{
    const bool candidate = evict->place[id] != 0;
    akv_evict_leave(evict, id);
    return candidate;
}

static void put_back(struct akv_evict *evict, uint32_t id, bool candidate)
{
    if (candidate)
        akv_evict_enter(evict, id);
}

void akv_evict_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    assert(id < evict->capacity);
    struct akv_evict_entry *e = &evict->entry[id];
    const bool candidate = take_out(evict, id);
    evict->stamp++;
    e->flags &= (uint8_t)~AKV_EVICT_LINE;
    evict->policy->touch(evict, id, tag_of(tag));
    e->t = evict->now;
    e->flags |= AKV_EVICT_KNOWN;
    put_back(evict, id, candidate);
    work(evict, part_of(evict, id));
}

void akv_evict_renew(struct akv_evict *evict, uint32_t id)
{
    if (!evict->policy->renew || evict->entry[id].flags & AKV_EVICT_LINE)
        return;
    const bool candidate = take_out(evict, id);
    evict->stamp++;
    evict->policy->renew(evict, id);
    put_back(evict, id, candidate);
}

double akv_evict_horizon(const struct akv_evict *evict, uint32_t id)
{
    return evict->policy->horizon ? evict->policy->horizon(part_of(evict, id)) : INFINITY;
}

void akv_evict_expect(struct akv_evict *evict, uint32_t id, double when)
{
    struct akv_evict_entry *e = &evict->entry[id];
    const bool candidate = take_out(evict, id);
    evict->stamp++;
    e->flags &= (uint8_t)~AKV_EVICT_LINE;
    if (evict->policy->renew)
        evict->policy->renew(evict, id);
    if (when > e->t && evict->policy->horizon)
        e->t = when;
    put_back(evict, id, candidate);
}

void akv_evict_demote(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    struct akv_evict_entry *e = &evict->entry[id];
    const bool candidate = take_out(evict, id);
    e->flags |= AKV_EVICT_LINE;
    e->stamp = ++evict->stamp;
    if (evict->policy->done)
        evict->policy->done(evict, id, tag_of(tag));
    put_back(evict, id, candidate);
}

void akv_evict_rate(struct akv_evict *evict, uint32_t id, float score)
{
    struct akv_evict_entry *e = &evict->entry[id];
    const bool candidate = take_out(evict, id);
    e->v = score == score ? score : 3.402823466e38f;
    e->flags |= AKV_EVICT_RATED;
    put_back(evict, id, candidate);
}

void akv_evict_band(struct akv_evict *evict, uint32_t id, uint32_t band)
{
    assert(band <= AKV_BAND_MAX);
    if (evict->entry[id].band == band)
        return;
    const bool candidate = take_out(evict, id);
    evict->entry[id].band = (uint8_t)band;
    put_back(evict, id, candidate);
}

void akv_evict_fan_out(struct akv_evict *evict, uint32_t id, uint32_t fan_out)
{
    evict->entry[id].fan_out = fan_out < 255 ? (uint8_t)fan_out : 255;
}

/* ---- birth, death, requests ---- */

void akv_evict_born(struct akv_evict *evict, uint32_t id, uint32_t part_number, uint64_t tag,
                    bool partial)
{
    struct akv_evict_part *part = evict->part[part_number];
    struct akv_evict_entry *e = &evict->entry[id];
    struct akv_ghost ghost;
    assert(evict->place[id] == 0);
    memset(e, 0, sizeof *e);
    e->part = (uint8_t)part_number;
    e->band = AKV_BAND_DEFAULT;
    e->flags = partial ? AKV_EVICT_PARTIAL : 0;
    e->stamp = ++evict->stamp;
    part->live++;
    if (!evict->policy->ghosts)
        return;
    if (akv_ghosts_take(&part->ghosts, AKV_GHOST_BLOCK, tag_of(tag), &ghost)) {
        e->flags |= AKV_EVICT_KNOWN;
        e->t = time_of(evict, ghost.time);
        evict->policy->recall(evict, id, &ghost);
        return;
    }
    const struct akv_ghost *end = akv_ghosts_find(&part->ghosts, AKV_GHOST_END, tag_of(tag));
    if (end) {
        e->flags |= AKV_EVICT_KNOWN;
        e->t = time_of(evict, end->time);
    }
    evict->policy->recall(evict, id, NULL);
}

void akv_evict_gone(struct akv_evict *evict, uint32_t id, uint64_t tag, bool evicted)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    struct akv_evict_part *part = part_of(evict, id);
    akv_evict_leave(evict, id);
    part->live--;
    if (evicted && evict->policy->went)
        evict->policy->went(evict, id);
    if (!evicted || !evict->policy->ghosts || !(e->flags & AKV_EVICT_KNOWN))
        return;
    const struct akv_ghost ghost = {tag_of(tag), ticks_of(evict, e->t),
                                    evict->policy->remember(evict, id)};
    akv_ghosts_put(&part->ghosts, AKV_GHOST_BLOCK, ghost, NULL);
}

void akv_evict_prefetch(const struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    akv_ghosts_prefetch(&part_of(evict, id)->ghosts, tag_of(tag));
}

void akv_evict_request(struct akv_evict *evict, uint32_t part)
{
    if (evict->policy->request)
        evict->policy->request(evict, evict->part[part]);
}

void akv_evict_gap(struct akv_evict *evict, uint32_t part, double seconds)
{
    if (evict->policy->gap)
        evict->policy->gap(evict, evict->part[part], seconds);
}

void akv_evict_end(struct akv_evict *evict, uint32_t part, uint64_t tag)
{
    const struct akv_ghost ghost = {tag_of(tag), ticks_of(evict, evict->now), 0};
    if (evict->policy->ghosts)
        akv_ghosts_put(&evict->part[part]->ghosts, AKV_GHOST_END, ghost, NULL);
}

double akv_evict_age(const struct akv_evict *evict, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    if (!(e->flags & AKV_EVICT_KNOWN))
        return -1.0;
    return e->t < evict->now ? evict->now - e->t : 0.0;
}

/* ---- victims ---- */

/* With the key by which it goes. */
static uint32_t first_of(struct akv_evict *evict, struct akv_evict_part *part, uint64_t *key_out)
{
    work(evict, part);
    struct akv_heap *heap = &part->heap[part->now], *old = &part->heap[!part->now];
    uint32_t best = AKV_NO_ID;
    uint64_t key = UINT64_MAX;
    akv_heap_repair(evict, heap);
    akv_heap_repair(evict, old);
    if (heap->count) {
        best = heap->base->id;
        key = heap->base->key;
    }
    if (old->count) { /* first by the keys of before; its key of now decides */
        const uint32_t id = old->base->id;
        const uint64_t rival = key_of(evict, part, id);
        if (rival < key) {
            best = id;
            key = rival;
        }
    }
    if (part->listed) {
        const uint32_t id = evict->policy->first(evict, part);
        if (id != AKV_NO_ID) {
            const uint64_t rival = key_of(evict, part, id);
            if (rival < key) {
                best = id;
                key = rival;
            }
        }
    }
    *key_out = key;
    return best;
}

uint32_t akv_evict_first(struct akv_evict *evict, uint32_t part)
{
    uint64_t key;
    return first_of(evict, evict->part[part], &key);
}

uint32_t akv_evict_victim(struct akv_evict *evict, uint64_t spared)
{
    uint32_t best = AKV_NO_ID;
    uint64_t best_order = 0, key;
    if (evict->parts == 1)
        return spared & 1u ? AKV_NO_ID : first_of(evict, evict->part[0], &key);
    for (uint32_t p = 0; p < evict->parts; p++) {
        if (spared >> p & 1u)
            continue;
        const uint32_t id = first_of(evict, evict->part[p], &key);
        if (id == AKV_NO_ID)
            continue;
        /* Keys of different parts are made with different half-lives: heat is comparable. */
        const uint64_t order =
            band_key(&evict->entry[id],
                     evict->entry[id].flags & AKV_EVICT_LINE
                         ? evict->entry[id].stamp
                         : akv_policy_real(evict->policy->heat(evict, evict->part[p], id)));
        if (best == AKV_NO_ID || order < best_order) {
            best = id;
            best_order = order;
        }
    }
    return best;
}

uint32_t akv_evict_coldest(struct akv_evict *evict, uint32_t part_number, uint32_t most,
                           uint32_t *ids)
{
    struct akv_evict_part *part = evict->part[part_number];
    struct akv_heap *heap = &part->heap[part->now];
    const uint64_t plain_keys =
        (uint64_t)AKV_BAND_DEFAULT << (AKV_KEY_BITS + 1) | (uint64_t)1 << AKV_KEY_BITS;
    most = most < AKV_COLDEST ? most : AKV_COLDEST;
    while (akv_evict_rekeying(part)) /* rare: then all at once */
        work(evict, part);
    akv_heap_repair(evict, heap);
    if (!part->lists)
        return akv_heap_first(heap, UINT64_MAX, most, ids);
    uint32_t count = akv_heap_first(heap, plain_keys, most, ids);
    count += evict->policy->coldest(evict, part, most - count, ids + count);
    if (count < most) { /* the bands above */
        uint32_t all[AKV_COLDEST];
        const uint32_t found = akv_heap_first(heap, UINT64_MAX, AKV_COLDEST, all);
        for (uint32_t i = 0; i < found && count < most; i++)
            if (key_of(evict, part, all[i]) >= plain_keys)
                ids[count++] = all[i];
    }
    return count;
}

double akv_evict_heat(const struct akv_evict *evict, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    const double heat = evict->policy->heat(evict, part_of(evict, id), id);
    /* Bands are far apart, and the line lies below all heats of its band. */
    return e->band * 1e30 + (e->flags & AKV_EVICT_LINE ? -4e29 : heat);
}

const char *akv_evict_reason(const struct akv_evict *evict, uint32_t id)
{
    return evict->policy->rule ? evict->policy->rule(part_of(evict, id)) : evict->policy->name;
}
