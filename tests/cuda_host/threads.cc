/* SPDX-License-Identifier: Apache-2.0 */
/* Threads of a block as contexts of their own, one at a time; the kernels of the fake driver. */
#include "mma.cuh"
#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>
#include "../../lib/kernel/bx16.h"
#include "../../lib/kernel/params.h"
#include "../../lib/kernel/rans.h"

#define LANES  32u
#define STACK  (128u * 1024u)
#define SHARED (256u * 1024u)
#define BEFORE 1280u /* bytes below dynamic shared memory: the driver's, and static variables */

struct copy {
    unsigned to;
    const void *from;
    int group;
};
struct thread {
    struct cu_index id;
    jmp_buf at;
    bool started;
    enum cu_wait wait;
    const char *what;
    struct cu_slot slot[2];
    unsigned turn;
    std::vector<copy> copies;
    int groups; /* committed */
};
const struct cu_index *cu_thread;
struct cu_index blockIdx, blockDim, gridDim;

alignas(65536) static unsigned char shared_memory[SHARED];
static unsigned shared_bytes;
static struct thread *threads, *now;
static unsigned count;
static unsigned char *stacks;
static jmp_buf scheduler;
static ucontext_t home;
static void (*kernel)(const void *, const void *, const void *, void *);
static void *const *arguments;
static const char *kernel_name = "";
static int votes[2];
static unsigned vote;

static void complain(const char *what)
{
    fprintf(stderr, "%s, block %u %u %u, thread %u: %s\n", kernel_name, blockIdx.x, blockIdx.y, blockIdx.z,
            cu_thread ? cu_thread->x : 0u, what);
    abort();
}

void *cu_dynamic(void)
{
    return shared_memory + BEFORE;
}
void *cu_shared_at(unsigned at, unsigned bytes)
{
    if (at < BEFORE || at > BEFORE + shared_bytes || BEFORE + shared_bytes - at < bytes)
        complain("shared memory: out of range");
    if (at % (bytes > 16u ? 16u : bytes))
        complain("shared memory: not aligned");
    return shared_memory + at;
}
unsigned cu_shared_address(const void *p)
{
    size_t at = (size_t)((const unsigned char *)p - shared_memory);
    if (at < BEFORE || at > BEFORE + shared_bytes)
        complain("shared memory: no address of it");
    return (unsigned)at;
}

void cu_give_way(enum cu_wait wait, const char *what)
{
    now->wait = wait;
    now->what = what;
    if (!_setjmp(now->at))
        _longjmp(scheduler, 1);
}
struct cu_slot *cu_mine(void)
{
    return &now->slot[now->turn & 1u];
}
const struct cu_slot *cu_meet(const char *what)
{
    static struct cu_slot all[2][LANES];
    unsigned turn = now->turn++ & 1u, first = now->id.x & ~(LANES - 1u);
    cu_give_way(CU_WARP, what);
    for (unsigned i = 0; i < LANES && first + i < count; i++)
        all[turn][i] = threads[first + i].slot[turn];
    return all[turn];
}
unsigned cu_ballot(int x)
{
    cu_mine()->word[0] = x != 0;
    const struct cu_slot *all = cu_meet("__ballot_sync");
    unsigned r = 0;
    for (unsigned i = 0; i < LANES; i++)
        r |= (unsigned)(all[i].word[0] & 1u) << i;
    return r;
}
int cu_block_or(int x)
{
    unsigned mine = vote; /* the same for all until the barrier opens */
    votes[mine & 1u] |= x != 0;
    cu_give_way(CU_BLOCK, "__syncthreads_or");
    return votes[mine & 1u];
}

/* Copies of a thread: done when it waits for them; their target is spoilt until then. */
void akv_copy16(unsigned dst, const void *src)
{
    if ((uintptr_t)src & 15u)
        complain("asynchronous copy: source not aligned");
    memset(cu_shared_at(dst, 16), 0xFF, 16);
    now->copies.push_back({dst, src, now->groups});
}
void akv_copy_commit(void)
{
    now->groups++;
}
void cu_copy_wait(int left)
{
    std::vector<copy> rest;
    for (const copy &c : now->copies)
        if (c.group < now->groups - left)
            memcpy(cu_shared_at(c.to, 16), c.from, 16);
        else
            rest.push_back(c);
    now->copies.swap(rest);
}

static void entry(void)
{
    kernel(arguments[0], arguments[1], arguments[2], arguments[3]);
    now->wait = CU_DONE;
    _longjmp(scheduler, 1);
}
static void run(struct thread *t)
{
    now = t;
    cu_thread = &t->id;
    t->wait = CU_READY;
    if (_setjmp(scheduler))
        return;
    if (t->started)
        _longjmp(t->at, 1);
    t->started = true;
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks + (size_t)t->id.x * STACK;
    start.uc_stack.ss_size = STACK;
    start.uc_link = NULL;
    makecontext(&start, entry, 0);
    swapcontext(&home, &start);
}
/* Runs a warp until all of its lanes wait for others; false: nothing could run. */
static bool run_warp(unsigned first, unsigned turn)
{
    unsigned lanes = count - first < LANES ? count - first : LANES;
    bool any = false;
    for (;;) {
        unsigned ran = 0, meeting = 0, done = 0;
        const char *what = NULL;
        for (unsigned i = 0; i < lanes; i++) {
            struct thread *t = &threads[first + (turn & 1u ? lanes - 1u - i : i)];
            if (t->wait == CU_READY) {
                run(t);
                ran++;
            }
        }
        any |= ran != 0;
        for (unsigned i = 0; i < lanes; i++) {
            struct thread *t = &threads[first + i];
            done += t->wait == CU_DONE;
            if (t->wait == CU_WARP) {
                if (what && strcmp(what, t->what) != 0) {
                    cu_thread = &t->id;
                    complain("lanes of a warp meet at different operations");
                }
                what = t->what;
                meeting++;
            }
        }
        if (meeting == 0 || meeting + done < lanes)
            return any;
        for (unsigned i = 0; i < lanes; i++)
            if (threads[first + i].wait == CU_WARP)
                threads[first + i].wait = CU_READY;
        turn++;
    }
}
static void run_block(void)
{
    for (unsigned i = 0; i < count; i++) {
        threads[i].id = {i, 0, 0};
        threads[i].wait = CU_READY;
        threads[i].started = false;
        threads[i].turn = 0;
        threads[i].groups = 0;
        threads[i].copies.clear();
    }
    memset(shared_memory, 0xFF, BEFORE + shared_bytes); /* NaN */
    votes[0] = votes[1] = 0;
    for (unsigned turn = 0, idle = 0;; turn++) {
        unsigned warps = (count + LANES - 1u) / LANES, done = 0, barrier = 0;
        bool any = false;
        for (unsigned w = 0; w < warps; w++)
            any |= run_warp((turn & 1u ? warps - 1u - w : w) * LANES, turn);
        for (unsigned i = 0; i < count; i++) {
            done += threads[i].wait == CU_DONE;
            barrier += threads[i].wait == CU_BLOCK;
            if (threads[i].wait == CU_POLL)
                threads[i].wait = CU_READY;
        }
        if (done == count)
            break;
        if (barrier + done == count) {
            if (done)
                complain("a barrier that some threads have left behind");
            for (unsigned i = 0; i < count; i++)
                threads[i].wait = CU_READY;
            vote++;
            votes[vote & 1u] = 0;
            any = true;
        }
        idle = any ? 0 : idle + 1;
        if (idle > 4)
            complain("threads wait for each other");
    }
    for (unsigned i = 0; i < count; i++)
        if (!threads[i].copies.empty())
            complain("ends with copies that nobody waited for");
}

/* ---- kernels of the fake driver (fake_cuda.c) ---- */
#define AKV_KERNEL(ID, family, name, class_, arguments) {#name, sizeof(akv_##name##_params)},
static const struct {
    const char *name;
    size_t bytes;
} kinds[] = {
#include "../../lib/kernel/kernels.def"
};
static void *find(const char *name)
{
    static void *self;
    Dl_info info;
    if (!self && dladdr((void *)find, &info))
        self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    return self ? dlsym(self, name) : NULL;
}
extern "C" uint32_t cuda_host_sizes(const char *name, size_t bytes[4])
{
    size_t known = 0, word = 0;
    bool attend = strncmp(name, "akv_k_attend", 12) == 0 || strncmp(name, "akv_k_prefill", 13) == 0;
    if (strncmp(name, "akv_k_", 6) != 0 || !find(name))
        return 0;
    word = strcspn(name + 6, "_"); /* kernels of one first word have one struct */
    for (const auto &k : kinds)
        if ((strcspn(k.name, "_") == word && strncmp(name + 6, k.name, word) == 0) ||
            (attend && strcmp(k.name, "attend") == 0))
            known = k.bytes;
    bytes[0] = known;
    bytes[1] = (8 + AKV_MAX_SLABS) * 8; /* akv_cu_args */
    bytes[2] = 5 * 4;                   /* akv_cu_plan */
    bytes[3] = 8;
    return attend ? 4 : 2;
}
extern "C" void cuda_host_run(const char *name, const unsigned *grid, const unsigned *block, unsigned shared,
                              void *const *param, uint32_t params)
{
    void *given[4] = {param[0], param[1], NULL, NULL};
    void *symbol = find(name);
    kernel_name = name;
    cu_thread = NULL;
    if (!symbol || shared > 227u * 1024u || block[0] > 1024u)
        complain("no such kernel, or too much of something");
    memcpy(&kernel, &symbol, sizeof kernel);
    if (params > 2) {
        given[2] = param[2];
        memcpy(&given[3], param[3], sizeof given[3]);
    }
    arguments = given;
    count = block[0];
    shared_bytes = shared;
    threads = new struct thread[count];
    stacks = (unsigned char *)malloc((size_t)count * STACK);
    blockDim = {block[0], 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
                run_block();
    free(stacks);
    delete[] threads;
}
