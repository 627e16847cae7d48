/* SPDX-License-Identifier: Apache-2.0 */
/* Eviction alone: order, bands, the line, parts, new half-lives, ghosts; against searches. */
#include "engine.h"
#include "duel.h"
#include "ghost.h"
#include "policy_gittins.h"

#define IDS 300u

static void start(struct akv_evict *evict, anykv_policy policy, uint32_t ids)
{
    OK(akv_evict_init(evict, NULL, policy));
    OK(akv_evict_reserve(evict, ids));
    akv_evict_clock(evict, 1000.0);
    for (uint32_t id = 0; id < ids; id++)
        akv_evict_born(evict, id, 0, id + 1, false);
}

static const anykv_policy all_policies[] = {ANYKV_POLICY_LRU,     ANYKV_POLICY_LFU,
                                            ANYKV_POLICY_FIFO,    ANYKV_POLICY_ADAPTIVE,
                                            ANYKV_POLICY_GITTINS, ANYKV_POLICY_CALLER};
#define EACH_POLICY(i) for (size_t i = 0; i < sizeof all_policies / sizeof *all_policies; i++)

Test(evict, least_recent_first)
{
    struct akv_evict evict;
    start(&evict, ANYKV_POLICY_LRU, 100);
    for (uint32_t id = 0; id < 100; id++) {
        akv_evict_touch(&evict, id, id + 1);
        akv_evict_enter(&evict, id);
    }
    akv_evict_touch(&evict, 0, 1);
    akv_evict_demote(&evict, 50, 51);
    akv_evict_demote(&evict, 20, 21);
    akv_evict_leave(&evict, 1);
    const uint32_t first[] = {50, 20, 2, 3};
    for (uint32_t i = 0; i < 4; i++) {
        cr_expect(akv_evict_victim(&evict, 0) == first[i], "victim %u is %u", i,
                  akv_evict_victim(&evict, 0));
        akv_evict_leave(&evict, first[i]);
    }
    akv_evict_demote(&evict, 60, 61);
    akv_evict_touch(&evict, 60, 61); /* undoes it */
    uint32_t last = 0;
    while (evict.count)
        akv_evict_leave(&evict, last = akv_evict_victim(&evict, 0));
    cr_expect(last == 60, "the last one is %u", last);
    akv_evict_finish(&evict);
}

/* Random touches, demotions, bands, candidates coming and going: the victim is always one that the
 * policy holds coldest, and the first `most` are the coldest in order. */
static void random_against_a_search(anykv_policy policy)
{
    struct akv_evict evict;
    start(&evict, policy, IDS);
    const char *name = evict.policy->name;
    bool inside[IDS] = {false};
    uint64_t random = 3;
    double now = 1000.0;
    uint32_t rekeyed = 0;
    for (int step = 0; step < 30000; step++) {
        const uint32_t id = house_random(&random) % IDS;
        akv_evict_clock(&evict, now += (house_random(&random) % 100) / 50.0);
        switch (house_random(&random) % 6) {
        case 0:
            akv_evict_enter(&evict, id);
            inside[id] = true;
            break;
        case 1:
            akv_evict_leave(&evict, id);
            inside[id] = false;
            break;
        case 2:
            akv_evict_touch(&evict, id, id + 1);
            break;
        case 3:
            if (house_random(&random) % 8 == 0)
                akv_evict_demote(&evict, id, id + 1);
            else
                akv_evict_renew(&evict, id);
            break;
        case 4:
            if (house_random(&random) % 4 == 0)
                akv_evict_band(&evict, id, house_random(&random) % 3 ? AKV_BAND_DEFAULT : 36);
            if (policy == ANYKV_POLICY_CALLER)
                akv_evict_rate(&evict, id, (float)(house_random(&random) % 1000));
            break;
        default: /* gaps that drift, so that the half-life moves again and again */
            akv_evict_gap(&evict, 0, step / 3000 % 2 ? 20.0 : 200.0);
            akv_evict_request(&evict, 0);
            rekeyed += akv_evict_rekeying(evict.part[0]);
        }
        const uint32_t victim = akv_evict_victim(&evict, 0);
        uint32_t best = AKV_NO_ID, count = 0;
        for (uint32_t i = 0; i < IDS; i++) {
            count += inside[i];
            if (inside[i] &&
                (best == AKV_NO_ID || akv_evict_heat(&evict, i) < akv_evict_heat(&evict, best)))
                best = i;
        }
        cr_assert(evict.count == count, "%s, step %d: %u candidates, not %u", name, step,
                  evict.count, count);
        cr_assert((victim == AKV_NO_ID) == (best == AKV_NO_ID));
        if (best == AKV_NO_ID)
            continue;
        cr_assert(inside[victim], "%s, step %d: %u is no candidate", name, step, victim);
        const double wanted = akv_evict_heat(&evict, best), got = akv_evict_heat(&evict, victim);
        /* While candidates move to new keys the first of the old ones may not be the very first. */
        const bool line = evict.entry[best].flags & AKV_EVICT_LINE;
        cr_assert(line == !!(evict.entry[victim].flags & AKV_EVICT_LINE) &&
                      evict.entry[best].band == evict.entry[victim].band,
                  "%s, step %d: band or line", name, step);
        if (policy != ANYKV_POLICY_GITTINS && !akv_evict_rekeying(evict.part[0]))
            cr_assert(got <= wanted + 1e-6 * (wanted < 0 ? -wanted : wanted),
                      "%s, step %d: %u of heat %g instead of %u of %g", name, step, victim, got,
                      best, wanted);
        if (step % 64)
            continue;
        uint32_t ids[64];
        const uint32_t most = count < 64 ? count : 64;
        cr_assert(akv_evict_coldest(&evict, 0, 64, ids) == most, "%s: coldest", name);
        for (uint32_t i = 0; i < most; i++)
            cr_assert(inside[ids[i]], "%s: the coldest are candidates", name);
        for (uint32_t i = 1; i < most && policy != ANYKV_POLICY_GITTINS; i++) {
            const double a = akv_evict_heat(&evict, ids[i - 1]), b = akv_evict_heat(&evict, ids[i]);
            cr_assert(a <= b + 1e-6 * (b < 0 ? -b : b), "%s: coldest, %u: %g before %g", name, i, a,
                      b);
        }
    }
    if (policy == ANYKV_POLICY_ADAPTIVE)
        cr_expect(rekeyed > 0, "the half-life never moved");
    akv_evict_finish(&evict);
}

Test(evict, random_lru)
{
    random_against_a_search(ANYKV_POLICY_LRU);
}
Test(evict, random_fifo)
{
    random_against_a_search(ANYKV_POLICY_FIFO);
}
Test(evict, random_lfu)
{
    random_against_a_search(ANYKV_POLICY_LFU);
}
Test(evict, random_adaptive)
{
    random_against_a_search(ANYKV_POLICY_ADAPTIVE);
}
Test(evict, random_gittins)
{
    random_against_a_search(ANYKV_POLICY_GITTINS);
}
Test(evict, random_caller)
{
    random_against_a_search(ANYKV_POLICY_CALLER);
}

Test(evict, unknown_policy)
{
    struct akv_evict evict;
    REFUSED(ANYKV_E_ARG, "policy: 99", akv_evict_init(&evict, NULL, (anykv_policy)99));
    EACH_POLICY(i)
    {
        const struct akv_policy *policy = akv_policy_find(all_policies[i]);
        cr_assert(policy && policy->id == all_policies[i]);
        cr_expect(akv_policy_parse(policy->name) == policy);
    }
    cr_expect(!akv_policy_parse("LIFO") && !akv_policy_parse(NULL));
}

/* ---- ADAPTIVE by hand ---- */

Test(evict, adaptive_counts_decay)
{
    struct akv_evict evict;
    start(&evict, ANYKV_POLICY_ADAPTIVE, 4);
    akv_evict_touch(&evict, 0, 1); /* half-life 60 s before gaps are known */
    akv_evict_clock(&evict, 1060.0);
    akv_evict_touch(&evict, 0, 1);
    cr_expect(evict.entry[0].v == 1.5f, "count %g", (double)evict.entry[0].v);
    akv_evict_clock(&evict, 1120.0);
    akv_evict_renew(&evict, 0); /* the last use moves, the one before fades */
    cr_expect(evict.entry[0].v == 1.25f, "count %g", (double)evict.entry[0].v);
    cr_expect(akv_evict_age(&evict, 0) == 0.0 && akv_evict_age(&evict, 1) < 0.0);
    /* Two uses an hour ago against one now: the half-life decides. */
    akv_evict_touch(&evict, 1, 2);
    akv_evict_enter(&evict, 0);
    akv_evict_enter(&evict, 1);
    cr_expect(akv_evict_victim(&evict, 0) == 1);
    akv_evict_clock(&evict, 1180.0);
    akv_evict_touch(&evict, 1, 2);
    cr_expect(akv_evict_victim(&evict, 0) == 0);
    akv_evict_finish(&evict);
}

Test(evict, partial_blocks_go_first_and_never_count)
{
    struct akv_evict evict;
    start(&evict, ANYKV_POLICY_ADAPTIVE, 2);
    akv_evict_born(&evict, 0, 0, 1, true);
    akv_evict_touch(&evict, 1, 2);
    for (int i = 0; i < 100; i++)
        akv_evict_touch(&evict, 0, 1);
    akv_evict_enter(&evict, 0);
    akv_evict_enter(&evict, 1);
    cr_expect(akv_evict_victim(&evict, 0) == 0 && evict.entry[0].v == 1e-6f);
    akv_evict_finish(&evict);
}

/* ---- ghosts ---- */

Test(evict, ghosts_bring_counts_back)
{
    struct akv_evict evict;
    start(&evict, ANYKV_POLICY_ADAPTIVE, 4);
    for (int i = 0; i < 3; i++)
        akv_evict_touch(&evict, 0, 77);
    akv_evict_enter(&evict, 0);
    akv_evict_gone(&evict, 0, 77, true);
    akv_evict_clock(&evict, 1060.0);
    akv_evict_born(&evict, 2, 0, 77, false);
    cr_expect(akv_evict_age(&evict, 2) == 60.0, "age %g", akv_evict_age(&evict, 2));
    akv_evict_touch(&evict, 2, 77);
    cr_expect(evict.entry[2].v == 2.5f, "count %g", (double)evict.entry[2].v);
    akv_evict_gone(&evict, 2, 77, false); /* withdrawn, not evicted: forgotten */
    akv_evict_born(&evict, 3, 0, 77, false);
    cr_expect(akv_evict_age(&evict, 3) < 0.0);
    /* The end of a request is remembered without a count. */
    akv_evict_end(&evict, 0, 99);
    akv_evict_clock(&evict, 1070.0);
    akv_evict_born(&evict, 1, 0, 99, false);
    cr_expect(akv_evict_age(&evict, 1) == 10.0);
    akv_evict_touch(&evict, 1, 99);
    cr_expect(evict.entry[1].v == 1.0f);
    akv_evict_finish(&evict);
}

Test(evict, ghosts_are_a_fifo)
{
    enum { BLOCKS = 1000 };
    struct akv_ghosts ghosts = {0};
    OK(akv_ghosts_reserve(&ghosts, NULL, BLOCKS));
    cr_expect(akv_ghosts_bytes(&ghosts) == BLOCKS * 16 * 16, "%llu bytes",
              (unsigned long long)akv_ghosts_bytes(&ghosts));
    uint64_t random = 5;
    static uint64_t tag[40 * BLOCKS];
    for (uint32_t i = 0; i < 40 * BLOCKS; i++) {
        tag[i] = (uint64_t)house_random(&random) << 33 ^ (uint64_t)house_random(&random) << 8 ^ i;
        akv_ghosts_put(&ghosts, AKV_GHOST_BLOCK, (struct akv_ghost){tag[i], i, ~i}, NULL);
    }
    uint32_t kept = 0, young = 0, old = 0;
    for (uint32_t i = 0; i < 40 * BLOCKS; i++) {
        const struct akv_ghost *found = akv_ghosts_find(&ghosts, AKV_GHOST_BLOCK, tag[i]);
        cr_expect(!found || (found->time == i && found->data == ~i), "ghost %u is another's", i);
        kept += found != NULL;
        young += found && i >= 36 * BLOCKS;
        old += found && i < 16 * BLOCKS;
    }
    cr_expect(kept > 11 * BLOCKS && kept <= 12 * BLOCKS, "%u kept", kept);
    cr_expect(young > 4 * BLOCKS * 95 / 100, "only %u of the last %u kept", young, 4 * BLOCKS);
    cr_expect(old < BLOCKS / 4, "%u of the oldest kept", old);
    /* Growing keeps them. */
    OK(akv_ghosts_reserve(&ghosts, NULL, 3 * BLOCKS));
    uint32_t after = 0;
    for (uint32_t i = 0; i < 40 * BLOCKS; i++)
        after += akv_ghosts_find(&ghosts, AKV_GHOST_BLOCK, tag[i]) != NULL;
    cr_expect(after > kept * 99 / 100, "%u of %u left after growing", after, kept);
    struct akv_ghost ghost;
    cr_expect(akv_ghosts_take(&ghosts, AKV_GHOST_BLOCK, tag[40 * BLOCKS - 1], &ghost));
    cr_expect(!akv_ghosts_take(&ghosts, AKV_GHOST_BLOCK, tag[40 * BLOCKS - 1], &ghost));
    akv_ghosts_finish(&ghosts);
}

/* ---- parts ---- */

/* However many requests come: what a ranking costs is bounded a second, too. */
Test(evict, rankings_leave_time_between)
{
    struct akv_evict evict;
    start(&evict, ANYKV_POLICY_GITTINS, IDS);
    const struct akv_gittins *g = evict.part[0]->state;
    for (uint32_t i = 0; i < 5000; i++)
        akv_evict_request(&evict, 0);
    cr_expect(g->rankings == 1, "%u rankings at one time", g->rankings);
    akv_evict_clock(&evict, 1000.2);
    akv_evict_request(&evict, 0);
    cr_expect(g->rankings == 1, "the second after 0.2 seconds");
    akv_evict_clock(&evict, 1000.3);
    akv_evict_request(&evict, 0);
    cr_expect(g->rankings == 2, "none after 0.3 seconds and 5,000 requests");
    akv_evict_clock(&evict, 2000.0);
    for (uint32_t i = 0; i < 499; i++)
        akv_evict_request(&evict, 0);
    cr_expect(g->rankings == 2, "one after less than 500 requests");
    akv_evict_finish(&evict);
}

Test(evict, parts_keep_their_own_order)
{
    EACH_POLICY(i)
    {
        struct akv_evict evict;
        uint32_t other;
        start(&evict, all_policies[i], 20);
        OK(akv_evict_add_part(&evict, 4, &other));
        for (uint32_t id = 10; id < 20; id++)
            akv_evict_born(&evict, id, other, id + 1, false);
        for (uint32_t id = 0; id < 20; id++) {
            akv_evict_touch(&evict, id, id + 1);
            akv_evict_enter(&evict, id);
        }
        cr_expect(akv_evict_victim(&evict, 1) >= 10, "%s", evict.policy->name);
        cr_expect(akv_evict_victim(&evict, 2) < 10, "%s", evict.policy->name);
        cr_expect(akv_evict_victim(&evict, 3) == AKV_NO_ID, "%s", evict.policy->name);
        cr_expect(akv_evict_first(&evict, other) >= 10, "%s", evict.policy->name);
        OK(akv_evict_reserve(&evict, 5000)); /* heaps and lists survive */
        uint32_t left = 0;
        for (uint32_t id; (id = akv_evict_victim(&evict, 0)) != AKV_NO_ID; left++)
            akv_evict_gone(&evict, id, id + 1, true);
        cr_expect(left == 20 && evict.count == 0, "%s: %u", evict.policy->name, left);
        akv_evict_finish(&evict);
    }
}

Test(evict, as_many_parts_as_there_is_room_for)
{
    struct akv_evict evict;
    uint32_t part;
    start(&evict, ANYKV_POLICY_ADAPTIVE, 10);
    for (uint32_t p = 1; p < AKV_PARTS; p++)
        OK(akv_evict_add_part(&evict, 1, &part));
    REFUSED(ANYKV_E_ARG, "tenants: more than 63", akv_evict_add_part(&evict, 1, &part));
    akv_evict_finish(&evict);
}

/* ---- memory ---- */

static anykv_policy scenario_policy;

static anykv_status grow_and_use(void)
{
    struct akv_evict evict;
    uint32_t part, used = 0;
    anykv_status status = akv_evict_init(&evict, NULL, scenario_policy);
    if (status)
        return status;
    for (uint32_t room = 16; room <= 256 && !status; room *= 4) {
        const uint32_t before = evict.count;
        status = akv_evict_reserve(&evict, room);
        cr_expect(evict.count == before);
        for (; !status && used < room; used++) {
            akv_evict_born(&evict, used, 0, used + 1, false);
            akv_evict_touch(&evict, used, used + 1);
            akv_evict_enter(&evict, used);
        }
        if (!status)
            status = akv_evict_add_part(&evict, 0, &part);
    }
    uint32_t left = 0;
    for (uint32_t id; (id = akv_evict_victim(&evict, 0)) != AKV_NO_ID; left++)
        akv_evict_gone(&evict, id, id + 1, true);
    cr_expect(left == used, "%u candidates of %u", left, used);
    akv_evict_finish(&evict);
    return status;
}

Test(evict, failed_allocations)
{
    EACH_POLICY(i)
    {
        scenario_policy = all_policies[i];
        house_fail_allocations(akv_policy_find(scenario_policy)->name, grow_and_use);
    }
}

/* ---- ADAPTIVE's rules ---- */

static void duel_touch(struct akv_duel *duel, uint32_t tag, uint32_t order)
{
    static struct akv_gittins learned;
    const struct akv_duel_block block = {.t = order, .tag = tag << 8, .order = order};
    akv_duel_touch(duel, &block, 100, 60.0, &learned);
}

/* What is behind a block that is not there is no hit; a rule has to hit clearly more, over many requests. */
Test(evict, duel_of_rules)
{
    static struct akv_duel duel;
    uint32_t order = 0;
    for (uint32_t tag = 1; tag <= 10; tag++)
        duel_touch(&duel, tag, ++order);
    for (int r = 0; r < AKV_RULES; r++)
        cr_expect(duel.hit[r] == 0 && duel.cache[r].count == 10);
    cr_expect(akv_duel_request(&duel, AKV_RULE_EVEN, true, 0.005) == AKV_RULE_EVEN);
    duel_touch(&duel, 1, ++order); /* the deepest first */
    duel_touch(&duel, 11, ++order);
    duel_touch(&duel, 2, ++order);
    for (int r = 0; r < AKV_RULES; r++)
        cr_expect(duel.hit[r] == 1, "rule %d: %u hits", r, duel.hit[r]);
    cr_expect(duel.asked == 3 && duel.total == 10.0);
    akv_duel_done(&duel, 2u << 8);
    for (int r = 0; r < AKV_RULES; r++)
        cr_expect(duel.cache[r].count == 10);
    /* Ten requests of 30 blocks say what one of 300 does not, and little says nothing. */
    for (uint32_t requests = 1; requests <= 10; requests += 9)
        for (uint32_t share = 1; share <= 60; share += 59) {
            enum akv_duel_rule rule = AKV_RULE_EVEN;
            memset(&duel, 0, sizeof duel);
            for (uint32_t i = 0; i < requests && rule == AKV_RULE_EVEN; i++) {
                duel.asked = 300 / requests;
                duel.hit[AKV_RULE_LEARNED] = duel.asked / share;
                rule = akv_duel_request(&duel, rule, true, 0.05);
            }
            cr_expect(rule == (requests == 10 && share == 1 ? AKV_RULE_LEARNED : AKV_RULE_EVEN),
                      "%u requests, one hit of %u", requests, share);
            cr_expect(duel.total == (rule == AKV_RULE_EVEN ? 300.0 : 0.0) &&
                      (rule == AKV_RULE_EVEN || duel.more[AKV_RULE_LEARNED] == 0.0));
        }
    duel.asked = 100;
    cr_expect(akv_duel_request(&duel, AKV_RULE_EVEN, false, 0.05) == AKV_RULE_EVEN && duel.asked == 0 &&
              duel.total == 300.0);
}

static struct akv_evict ruled;

/* One block is asked for; true: it was there. */
static bool ask(uint32_t *id_of, uint32_t *held, uint32_t room, uint32_t key)
{
    const uint64_t tag = (key + 1) * UINT64_C(0x9E3779B97F4A7C15);
    const bool there = id_of[key] != AKV_NO_ID;
    akv_evict_clock(&ruled, ruled.now + 1.0);
    if (!there) {
        uint32_t id = 0;
        while (id < room && held[id] != AKV_NO_ID)
            id++;
        if (id == room) {
            id = akv_evict_victim(&ruled, 0);
            cr_assert(id < room && ruled.place[id], "the victim is no candidate");
            akv_evict_gone(&ruled, id, (held[id] + 1) * UINT64_C(0x9E3779B97F4A7C15), true);
            id_of[held[id]] = AKV_NO_ID;
        }
        akv_evict_born(&ruled, id, 0, tag, false);
        held[id] = key;
        id_of[key] = id;
    }
    akv_evict_touch(&ruled, id_of[key], tag);
    akv_evict_enter(&ruled, id_of[key]);
    akv_evict_request(&ruled, 0);
    return there;
}

static void check_candidates(uint32_t room)
{
    uint32_t ids[AKV_COLDEST];
    bool seen[512] = {false};
    cr_assert(ruled.count == room && ruled.part[0]->live == room);
    cr_assert(akv_evict_coldest(&ruled, 0, AKV_COLDEST, ids) == AKV_COLDEST);
    for (uint32_t i = 0; i < AKV_COLDEST; i++) {
        cr_assert(ids[i] < room && !seen[ids[i]], "%u twice, or no candidate", ids[i]);
        seen[ids[i]] = true;
    }
}

/* Blocks that come back at a beat, a few more than there is room for: by recency none is ever there
 * when it comes.  Then others, of which few are popular; candidates stay what they are. */
Test(evict, adaptive_changes_its_rule)
{
    enum { ROOM = 300, BEAT = 340, KEYS = 4000 };
    static uint32_t id_of[KEYS], held[ROOM];
    uint64_t random = 5, hits = 0, changes;
    memset(id_of, 0xFF, sizeof id_of);
    memset(held, 0xFF, sizeof held);
    OK(akv_evict_init(&ruled, NULL, ANYKV_POLICY_ADAPTIVE));
    OK(akv_evict_reserve(&ruled, ROOM));
    for (uint32_t i = 0; i < 20000; i++) {
        hits += ask(id_of, held, ROOM, i % BEAT) && i >= 10000;
        if (i == 9000) { /* bands and the line stay what they are */
            akv_evict_band(&ruled, 7, 90);
            akv_evict_demote(&ruled, 9, (held[9] + 1) * UINT64_C(0x9E3779B97F4A7C15));
            cr_expect(akv_evict_victim(&ruled, 0) == 9);
        }
        if (i >= ROOM && i % 1000 == 0)
            check_candidates(ROOM);
    }
    changes = ruled.changes;
    printf("# %llu of 10,000 hits, %llu changes of rule\n", (unsigned long long)hits,
           (unsigned long long)changes);
    cr_expect(changes > 0 && hits > 8000, "%llu hits", (unsigned long long)hits);
    cr_expect(strcmp(akv_evict_reason(&ruled, 0), "adaptive (learned)") == 0);
    for (uint32_t i = 0; i < 60000; i++) {
        const uint32_t popular =
            house_random(&random) % (1 + house_random(&random) % (KEYS - BEAT));
        (void)ask(id_of, held, ROOM, BEAT + popular);
        if (i % 1000 == 0)
            check_candidates(ROOM);
    }
    printf("# then %llu changes\n", (unsigned long long)(ruled.changes - changes));
    akv_evict_finish(&ruled);
}
