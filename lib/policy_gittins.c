/* SPDX-License-Identifier: Apache-2.0 */
/* GITTINS: each block's chance to be used again per second of keeping it, at the best horizon
 * (Gittins' index with unknown distributions).
 *
 * Blocks are classed by how often they were used (1, 2, 3, 4–5, 6–9, 10–17, 18 and more), children
 * ever seen (0, 1, more) and last gap (none, then by factors of 4); partial ones are a class of
 * their own.  A sample of all blocks, cached or not, is followed: for each class and age (by
 * factors of √2) the uses that came at that age and the blocks that reached it, those still waiting
 * included (Kaplan and Meier), give the hazard of use, drawn towards that of the count's classes
 * and of all.  Then index(class, age) = max over T of P(use within T) / E[min(wait, T)].
 *
 * Candidates stand in lists by class and age.  The lists are ranked by index, a bit for each that
 * is not empty, so the next victim is the head of the first; heads that have grown older move on, a
 * few at a time. */
#include "policy_gittins.h"
#include <stdlib.h>

#define SAMPLE      16384u /* blocks that are followed */
#define COVER       32u    /* of all blocks so many times the capacity are sampled from */
#define REQUESTS    500u   /* between two rankings, the first so many; then four times as many */
#define EARLY       32u
#define LEAST_WAIT  0.25 /* seconds between two rankings, which take a few milliseconds */
#define FIRST       64u  /* requests before the first ranking that has learned something */
#define TO_COUNT    10.0 /* weight of the count's classes against a class's own numbers */
#define TO_ALL      50.0 /* weight of all classes against a count's */
#define KEEP        0.99 /* of what was counted, from one ranking to the next */
#define CALLS       8u
#define MOVES       8u   /* heads looked at in one of so many calls */
#define HORIZON     60.0 /* seconds before an expected use at which the block counts as new */
#define HEAD_CHECKS 64u  /* heads looked at for one victim */
#define NONE        0xFFFFFFFFu

/* entry.word: count (5 bits), last gap's class + 1 or 0 (3), class (7), age (5). */
struct word {
    uint32_t count, gap, class_, age;
};
static struct word unpack(uint32_t word)
{
    const struct word w = {word & 31u, word >> 5 & 7u, word >> 8 & 127u, word >> 15 & 31u};
    return w;
}

static uint32_t pack(struct word w)
{
    return w.count | w.gap << 5 | w.class_ << 8 | w.age << 15;
}

/* ---- classes and ages ---- */

#define ROOT_2 1.4142135623730951

/* Age bin b covers [low_end(b), low_end(b + 1)) seconds: 0, 1, √2, 2, … */
static double low_end(uint32_t bin)
{
    return bin == 0 ? 0.0 : (double)(1u << (bin - 1) / 2) * (bin % 2 ? 1.0 : ROOT_2);
}

static uint32_t age_bin(double seconds)
{
    if (!(seconds >= 1.0))
        return 0;
    if (seconds >= (double)(1u << AKV_GITTINS_AGES / 2))
        return AKV_GITTINS_AGES - 1;
    const uint32_t whole = (uint32_t)seconds, power = 31u - (uint32_t)__builtin_clz(whole);
    const uint32_t bin = 1 + 2 * power + (seconds >= (double)(1u << power) * ROOT_2);
    return bin < AKV_GITTINS_AGES ? bin : AKV_GITTINS_AGES - 1;
}

static uint32_t count_class(uint32_t count)
{
    static const uint8_t ends[AKV_GITTINS_COUNTS - 1] = {1, 2, 3, 5, 9, 17};
    uint32_t c = 0;
    while (c < AKV_GITTINS_COUNTS - 1 && count > ends[c])
        c++;
    return c;
}

static uint32_t gap_class(double seconds) /* 1 … AKV_GITTINS_GAPS-1 */
{
    uint32_t g = 1;
    for (double end = 16.0; g < AKV_GITTINS_GAPS - 1 && seconds >= end; end *= 4.0)
        g++;
    return g;
}

static uint32_t class_of(const struct akv_evict_entry *e, struct word w)
{
    if (e->flags & AKV_EVICT_PARTIAL)
        return 0;
    const uint32_t fan = e->fan_out < AKV_GITTINS_FANS ? e->fan_out : AKV_GITTINS_FANS - 1;
    return 1u + (count_class(w.count) * AKV_GITTINS_FANS + fan) * AKV_GITTINS_GAPS + w.gap;
}

/* ---- lists ---- */

static void mark(struct akv_gittins *g, uint32_t list, bool filled)
{
    const uint32_t rank = g->rank[list];
    const uint64_t bit = (uint64_t)1 << (rank & 63u);
    if (filled)
        g->filled[rank >> 6] |= bit;
    else
        g->filled[rank >> 6] &= ~bit;
}

static void list_add(struct akv_evict *evict, struct akv_gittins *g, uint32_t list, uint32_t id)
{
    struct akv_gittins_link *links = evict->links;
    struct akv_gittins_list *l = &g->list[list];
    links[id] = (struct akv_gittins_link){l->tail, NONE};
    if (l->tail == NONE) {
        l->head = id;
        mark(g, list, true);
    } else
        links[l->tail].next = id;
    l->tail = id;
}

static void list_take(struct akv_evict *evict, struct akv_gittins *g, uint32_t list, uint32_t id)
{
    struct akv_gittins_link *links = evict->links;
    struct akv_gittins_list *l = &g->list[list];
    const struct akv_gittins_link link = links[id];
    *(link.prev == NONE ? &l->head : &links[link.prev].next) = link.next;
    *(link.next == NONE ? &l->tail : &links[link.next].prev) = link.prev;
    if (l->head == NONE)
        mark(g, list, false);
}

void akv_gittins_enter(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id)
{
    struct akv_evict_entry *e = &evict->entry[id];
    struct word w = unpack(e->word);
    w.age = age_bin(evict->now - e->t);
    e->word = pack(w);
    list_add(evict, part->state, w.class_ * AKV_GITTINS_AGES + w.age, id);
}

void akv_gittins_leave(struct akv_evict *evict, struct akv_evict_part *part, uint32_t id)
{
    const struct word w = unpack(evict->entry[id].word);
    list_take(evict, part->state, w.class_ * AKV_GITTINS_AGES + w.age, id);
}

/* Moves the head of a list on if it has grown out of the list's age; true: it did. */
static bool age_head(struct akv_evict *evict, struct akv_evict_part *part, uint32_t list)
{
    const struct akv_gittins *g = part->state;
    const uint32_t head = g->list[list].head;
    if (head == NONE)
        return false;
    const struct word w = unpack(evict->entry[head].word);
    if (w.age == AKV_GITTINS_AGES - 1 || evict->now - evict->entry[head].t < low_end(w.age + 1))
        return false;
    akv_gittins_leave(evict, part, head);
    akv_gittins_enter(evict, part, head);
    return true;
}

void akv_gittins_work(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_gittins *g = part->state;
    uint32_t left = MOVES;
    if (++g->calls % CALLS) /* ages are coarse: every so many calls will do */
        return;
    /* From where the last call stopped, the next lists that are not empty. */
    for (uint32_t words = 0; words <= AKV_GITTINS_WORDS && left; words++) {
        uint64_t bits = g->filled[g->turn >> 6] >> (g->turn & 63u) << (g->turn & 63u);
        while (bits && left) {
            const uint32_t bit = (uint32_t)__builtin_ctzll(bits);
            const uint32_t rank = (g->turn & ~63u) + bit;
            while (left && age_head(evict, part, g->at_rank[rank]))
                left--;
            left -= left != 0;
            bits &= bits - 1;
            g->turn = rank + 1;
        }
        if (bits == 0)
            g->turn = ((g->turn >> 6) + 1) << 6;
        if (g->turn >= AKV_GITTINS_LISTS)
            g->turn = 0;
    }
}

uint32_t akv_gittins_first(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_gittins *g = part->state;
    for (uint32_t check = 0;; check++) {
        uint32_t word = 0;
        while (word < AKV_GITTINS_WORDS && g->filled[word] == 0)
            word++;
        if (word == AKV_GITTINS_WORDS)
            return AKV_NO_ID;
        const uint32_t list = g->at_rank[word * 64 + (uint32_t)__builtin_ctzll(g->filled[word])];
        if (check == HEAD_CHECKS || !age_head(evict, part, list))
            return g->list[list].head;
    }
}

uint32_t akv_gittins_coldest(const struct akv_evict *evict, const struct akv_evict_part *part,
                             uint32_t most, uint32_t *ids)
{
    const struct akv_gittins *g = part->state;
    const struct akv_gittins_link *links = evict->links;
    uint32_t count = 0;
    for (uint32_t r = 0; r < AKV_GITTINS_LISTS && count < most; r++)
        for (uint32_t id = g->list[g->at_rank[r]].head; id != NONE && count < most;
             id = links[id].next)
            ids[count++] = id;
    return count;
}

/* ---- ranking ---- */

struct life {
    double uses[AKV_GITTINS_AGES], reached[AKV_GITTINS_AGES];
};

/* Uses and blocks under observation by age: those used, lost and still waiting have all reached the
 * ages before theirs; one that is lost or waiting counts half at its own. */
static void count_lives(const struct akv_evict *evict, const struct akv_gittins *g,
                        struct life *life)
{
    const double epoch = evict->epoch;
    for (uint32_t c = 0; c < AKV_GITTINS_CLASSES; c++) {
        double later = 0.0;
        for (uint32_t a = AKV_GITTINS_AGES; a-- > 0;) {
            const struct akv_gittins_cell *cell = &g->cell[c][a];
            life[c].uses[a] = (double)cell->uses;
            life[c].reached[a] = later + (double)cell->uses + 0.5 * (double)cell->lost;
            later += (double)cell->uses + (double)cell->lost;
        }
    }
    const uint64_t entries = g->sample.buckets * AKV_GHOST_BUCKET;
    for (uint64_t i = 0; i < entries; i++) {
        const struct akv_ghost *followed = &g->sample.entry[i];
        if (followed->tag == 0)
            continue;
        const uint32_t bin = age_bin(evict->now - (epoch + followed->time / 16.0));
        struct life *l = &life[followed->data];
        for (uint32_t a = 0; a < bin; a++)
            l->reached[a] += 1.0;
        l->reached[bin] += 0.5;
    }
}

static void add_life(struct life *sum, const struct life *life)
{
    for (uint32_t a = 0; a < AKV_GITTINS_AGES; a++) {
        sum->uses[a] += life->uses[a];
        sum->reached[a] += life->reached[a];
    }
}

/* Uses per block that reaches the age, with `weight` blocks' worth of a prior. */
static double hazard(const struct life *life, uint32_t age, double prior, double weight)
{
    const double h = (life->uses[age] + weight * prior) / (life->reached[age] + weight);
    return h < 1.0 ? h : 1.0;
}

static void index_class(const double *h, float *index)
{
    for (uint32_t from = 0; from < AKV_GITTINS_AGES; from++) {
        double left = 1.0, used = 0.0, wait = 0.0, best = 0.0;
        for (uint32_t a = from; a < AKV_GITTINS_AGES; a++) {
            const double width = low_end(a + 1) - low_end(a), now = left * h[a];
            used += now;
            wait += (left - 0.5 * now) * width;
            left -= now;
            if (used / wait > best)
                best = used / wait;
        }
        index[from] = (float)best;
    }
}

struct ranked {
    float index;
    uint32_t list;
};

static int by_index(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->index != y->index)
        return x->index < y->index ? -1 : 1;
    return x->list < y->list ? -1 : 1;
}

static void rank_lists(struct akv_gittins *g)
{
    struct ranked order[AKV_GITTINS_LISTS];
    for (uint32_t i = 0; i < AKV_GITTINS_LISTS; i++)
        order[i] = (struct ranked){g->index[i], i};
    qsort(order, AKV_GITTINS_LISTS, sizeof *order, by_index);
    memset(g->filled, 0, sizeof g->filled);
    for (uint32_t r = 0; r < AKV_GITTINS_LISTS; r++) {
        g->rank[order[r].list] = r;
        g->at_rank[r] = order[r].list;
        if (g->list[order[r].list].head != NONE)
            mark(g, order[r].list, true);
    }
}

static void learn(struct akv_evict *evict, struct akv_gittins *g)
{
    struct life life[AKV_GITTINS_CLASSES], by_count[AKV_GITTINS_COUNTS], all;
    memset(life, 0, sizeof life);
    memset(by_count, 0, sizeof by_count);
    memset(&all, 0, sizeof all);
    count_lives(evict, g, life);
    for (uint32_t c = 0; c < AKV_GITTINS_CLASSES; c++) {
        add_life(&all, &life[c]);
        if (c)
            add_life(&by_count[(c - 1) / (AKV_GITTINS_FANS * AKV_GITTINS_GAPS)], &life[c]);
    }
    for (uint32_t c = 0; c < AKV_GITTINS_CLASSES; c++) {
        double h[AKV_GITTINS_AGES];
        for (uint32_t a = 0; a < AKV_GITTINS_AGES; a++) {
            double prior = hazard(&all, a, 1e-3, TO_COUNT);
            if (c)
                prior = hazard(&by_count[(c - 1) / (AKV_GITTINS_FANS * AKV_GITTINS_GAPS)], a, prior,
                               TO_ALL);
            h[a] = hazard(&life[c], a, prior, TO_COUNT);
        }
        index_class(h, g->index + c * AKV_GITTINS_AGES);
    }
    for (uint32_t c = 0; c < AKV_GITTINS_CLASSES; c++)
        for (uint32_t a = 0; a < AKV_GITTINS_AGES; a++) {
            g->cell[c][a].uses *= (float)KEEP;
            g->cell[c][a].lost *= (float)KEEP;
        }
}

anykv_status akv_gittins_open(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_gittins *g = part->state;
    part->lists = true;
    for (uint32_t i = 0; i < AKV_GITTINS_LISTS; i++) {
        g->list[i] = (struct akv_gittins_list){NONE, NONE};
        /* Before anything is known: the least recently used first, partial ones before all. */
        g->index[i] = (float)(1.0 / (1.0 + low_end(i % AKV_GITTINS_AGES)));
        if (i < AKV_GITTINS_AGES)
            g->index[i] *= 1e-6f;
    }
    rank_lists(g);
    /* 12 of 16 entries are used. */
    return akv_ghosts_reserve(&g->sample, evict->context, SAMPLE / 12);
}

void akv_gittins_close(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_gittins *g = part->state;
    (void)evict;
    akv_ghosts_finish(&g->sample);
}

void akv_gittins_request(struct akv_evict *evict, struct akv_evict_part *part)
{
    struct akv_gittins *g = part->state;
    const uint32_t wait = g->rankings == 0 ? FIRST : g->rankings < EARLY ? REQUESTS : 4 * REQUESTS;
    if (++g->requests < wait || (g->rankings && evict->now - g->ranked < LEAST_WAIT))
        return;
    g->requests = 0;
    g->ranked = evict->now;
    g->rankings += g->rankings < EARLY;
    learn(evict, g);
    rank_lists(g);
}

/* ---- a block's life ---- */

/* A ghost keeps count and gap (8 bits) and children seen (3); the class follows at the touch. */
#define WORD_KEPT 0xFFu
#define FAN_SHIFT 8
#define FAN_MOST  7u

void akv_gittins_recall(struct akv_evict *evict, uint32_t id, const struct akv_ghost *ghost)
{
    if (!ghost)
        return;
    evict->entry[id].word = ghost->data & WORD_KEPT;
    evict->entry[id].fan_out = (uint8_t)(ghost->data >> FAN_SHIFT & FAN_MOST);
}

uint32_t akv_gittins_remember(struct akv_evict *evict, uint32_t id)
{
    const struct akv_evict_entry *e = &evict->entry[id];
    const uint32_t fan = e->fan_out < FAN_MOST ? e->fan_out : FAN_MOST;
    return (e->word & WORD_KEPT) | fan << FAN_SHIFT;
}

/* Is the block one of those that are followed?  One of so many is, a power of two. */
static bool sampled(const struct akv_evict *evict, struct akv_gittins *g, uint64_t tag)
{
    while ((uint64_t)evict->capacity * COVER > (g->mask + 1) * SAMPLE)
        g->mask = g->mask * 2 + 1;
    /* The lowest bits choose places in other tables; these are independent of them. */
    return (tag >> 8 & g->mask) == 0;
}

static void follow(struct akv_evict *evict, struct akv_gittins *g, uint64_t tag, uint32_t class_)
{
    const uint32_t ticks = (uint32_t)(uint64_t)((evict->now - evict->epoch) * 16.0);
    struct akv_ghost before;
    if (akv_ghosts_take(&g->sample, AKV_GHOST_BLOCK, tag, &before))
        g->cell[before.data][age_bin((ticks - before.time) / 16.0)].uses += 1.0f;
    const struct akv_ghost now = {tag, ticks, class_};
    if (akv_ghosts_put(&g->sample, AKV_GHOST_BLOCK, now, &before))
        g->cell[before.data][age_bin((ticks - before.time) / 16.0)].lost += 1.0f;
}

void akv_gittins_touch(struct akv_evict *evict, uint32_t id, uint64_t tag)
{
    struct akv_evict_entry *e = &evict->entry[id];
    struct akv_gittins *g = evict->part[e->part]->state;
    struct word w = unpack(e->word);
    if (w.count)
        w.gap = gap_class(evict->now - e->t);
    w.count += w.count < 31;
    w.class_ = class_of(e, w);
    e->word = pack(w);
    e->stamp = evict->stamp;
    if (sampled(evict, g, tag))
        follow(evict, g, tag, w.class_);
}

static void gittins_renew(struct akv_evict *evict, uint32_t id)
{
    if (evict->now > evict->entry[id].t)
        evict->entry[id].t = evict->now;
}

static double gittins_horizon(const struct akv_evict_part *part)
{
    (void)part;
    return HORIZON;
}

uint32_t akv_gittins_class(uint32_t word)
{
    return unpack(word).class_;
}

float akv_gittins_index(const struct akv_gittins *g, uint32_t class_, double age)
{
    return g->index[class_ * AKV_GITTINS_AGES + age_bin(age)];
}

uint64_t akv_gittins_key(struct akv_evict *evict, const struct akv_evict_part *part, uint32_t id)
{
    const struct akv_gittins *g = part->state;
    const struct akv_evict_entry *e = &evict->entry[id];
    const struct word w = unpack(e->word);
    return akv_policy_real(
        (double)g->index[w.class_ * AKV_GITTINS_AGES + age_bin(evict->now - e->t)]);
}

static double gittins_heat(const struct akv_evict *evict, const struct akv_evict_part *part,
                           uint32_t id)
{
    const struct akv_gittins *g = part->state;
    const struct akv_evict_entry *e = &evict->entry[id];
    const struct word w = unpack(e->word);
    return (double)g->index[w.class_ * AKV_GITTINS_AGES + age_bin(evict->now - e->t)];
}

const struct akv_policy akv_policy_gittins = {
    .id = ANYKV_POLICY_GITTINS,
    .name = "gittins",
    .ghosts = true,
    .state_bytes = sizeof(struct akv_gittins),
    .id_bytes = sizeof(struct akv_gittins_link),
    .open = akv_gittins_open,
    .close = akv_gittins_close,
    .recall = akv_gittins_recall,
    .remember = akv_gittins_remember,
    .touch = akv_gittins_touch,
    .renew = gittins_renew,
    .key = akv_gittins_key,
    .request = akv_gittins_request,
    .work = akv_gittins_work,
    .enter = akv_gittins_enter,
    .leave = akv_gittins_leave,
    .first = akv_gittins_first,
    .coldest = akv_gittins_coldest,
    .horizon = gittins_horizon,
    .heat = gittins_heat,
};
