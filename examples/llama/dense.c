/* SPDX-License-Identifier: Apache-2.0 */
/* Dense arithmetic. */
#include "dense.h"
#include <math.h>
#include <string.h>

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(HAVE_CBLAS)
#include <cblas.h>
#endif

/* A product, cut by columns of the result. */
struct product {
    float *out;
    const float *a, *b;
    size_t ld_out, ld_a, ld_b, rows, n, k;
    int plain;
};

enum { LANES = 16, TILE = 4 };

/* Four dot products with one row of b: the compiler makes vectors of the lanes. */
static void dots(const float *restrict a, size_t ld_a, const float *restrict b, size_t k,
                 float *out)
{
    float sums[TILE][LANES] = {{0}};
    size_t whole = k / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t r = 0; r < TILE; r++)
            for (size_t l = 0; l < LANES; l++)
                sums[r][l] += a[r * ld_a + i + l] * b[i + l];
    for (size_t r = 0; r < TILE; r++) {
        out[r] = 0.0f;
        for (size_t l = 0; l < LANES; l++)
            out[r] += sums[r][l];
        for (size_t i = whole; i < k; i++)
            out[r] += a[r * ld_a + i] * b[i];
    }
}

static float dot(const float *restrict a, const float *restrict b, size_t k)
{
    float sums[LANES] = {0}, sum = 0.0f;
    size_t whole = k / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t l = 0; l < LANES; l++)
            sums[l] += a[i + l] * b[i + l];
    for (size_t l = 0; l < LANES; l++)
        sum += sums[l];
    for (size_t i = whole; i < k; i++)
        sum += a[i] * b[i];
    return sum;
}

static void product_part(const struct product *p, size_t part, size_t parts)
{
    size_t first = p->n * part / parts, last = p->n * (part + 1) / parts;
    if (p->plain) {
        for (size_t r = 0; r < p->rows; r++) {
            float *restrict out = p->out + r * p->ld_out;
            for (size_t j = first; j < last; j++)
                out[j] = 0.0f;
            for (size_t i = 0; i < p->k; i++) {
                float weight = p->a[r * p->ld_a + i];
                const float *restrict row = p->b + i * p->ld_b;
                for (size_t j = first; j < last; j++)
                    out[j] += weight * row[j];
            }
        }
        return;
    }
    for (size_t j = first; j < last; j++) {
        const float *b = p->b + j * p->ld_b;
        size_t r = 0;
        for (; r + TILE <= p->rows; r += TILE) {
            float tile[TILE];
            dots(p->a + r * p->ld_a, p->ld_a, b, p->k, tile);
            for (size_t i = 0; i < TILE; i++)
                p->out[(r + i) * p->ld_out + j] = tile[i];
        }
        for (; r < p->rows; r++)
            p->out[r * p->ld_out + j] = dot(p->a + r * p->ld_a, b, p->k);
    }
}

/* Threads that wait for a product; the caller computes the first part. */
enum { MAX_THREADS = 256 };
static pthread_t thread[MAX_THREADS];
static size_t threads = 1;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begin = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static unsigned long turn;
static size_t busy;
static int leaving;
static struct product current;

static void *work(void *index)
{
    unsigned long seen = 0;
    (void)pthread_mutex_lock(&mutex);
    for (;;) {
        while (turn == seen && !leaving)
            (void)pthread_cond_wait(&begin, &mutex);
        if (leaving)
            break;
        seen = turn;
        struct product mine = current;
        (void)pthread_mutex_unlock(&mutex);
        product_part(&mine, (size_t)(uintptr_t)index, threads);
        (void)pthread_mutex_lock(&mutex);
        if (--busy == 0)
            (void)pthread_cond_signal(&done);
    }
    (void)pthread_mutex_unlock(&mutex);
    return NULL;
}

int dense_start(unsigned wanted)
{
    long processors = wanted ? (long)wanted : sysconf(_SC_NPROCESSORS_ONLN);
    size_t count = processors < 1 ? 1 : processors > MAX_THREADS ? MAX_THREADS : (size_t)processors;
    leaving = 0;
    turn = 0;
    threads = count; /* before the first product nobody reads it */
    for (size_t i = 1; i < count; i++) {
        if (pthread_create(&thread[i], NULL, work, (void *)(uintptr_t)i) != 0) {
            threads = i;
            break;
        }
    }
    return 0;
}

void dense_stop(void)
{
    (void)pthread_mutex_lock(&mutex);
    leaving = 1;
    (void)pthread_cond_broadcast(&begin);
    (void)pthread_mutex_unlock(&mutex);
    for (size_t i = 1; i < threads; i++)
        (void)pthread_join(thread[i], NULL);
    threads = 1;
}

static void product(const struct product *p)
{
    if (threads == 1 || p->rows * p->n * p->k < 1u << 15) {
        product_part(p, 0, 1);
        return;
    }
    (void)pthread_mutex_lock(&mutex);
    current = *p;
    busy = threads - 1;
    turn++;
    (void)pthread_cond_broadcast(&begin);
    (void)pthread_mutex_unlock(&mutex);
    product_part(p, 0, threads);
    (void)pthread_mutex_lock(&mutex);
    while (busy)
        (void)pthread_cond_wait(&done, &mutex);
    (void)pthread_mutex_unlock(&mutex);
}

/* One row is bound by memory, and the loops above wake their threads faster than a CBLAS does. */
void dense_product(float *out, size_t ld_out, const float *a, size_t ld_a, const float *b,
                   size_t ld_b, size_t rows, size_t n, size_t k)
{
#if defined(HAVE_CBLAS)
    if (rows > 1) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)k, 1.0f, a,
                    (int)ld_a, b, (int)ld_b, 0.0f, out, (int)ld_out);
        return;
    }
#endif
    product(&(struct product){out, a, b, ld_out, ld_a, ld_b, rows, n, k, 0});
}

void dense_product_plain(float *out, size_t ld_out, const float *a, size_t ld_a, const float *b,
                         size_t ld_b, size_t rows, size_t n, size_t k)
{
#if defined(HAVE_CBLAS)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)n, (int)k, 1.0f, a,
                (int)ld_a, b, (int)ld_b, 0.0f, out, (int)ld_out);
#else
    product(&(struct product){out, a, b, ld_out, ld_a, ld_b, rows, n, k, 1});
#endif
}

const char *dense_name(void)
{
#if defined(HAVE_CBLAS)
    return "CBLAS";
#else
    return "own loops";
#endif
}

void dense_rms_norm(float *out, const float *x, const float *weight, size_t rows, size_t n,
                    float epsilon)
{
    for (size_t r = 0; r < rows; r++, x += n, out += n) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)x[i] * (double)x[i];
        float scale = (float)(1.0 / sqrt(sum / (double)n + (double)epsilon));
        for (size_t i = 0; i < n; i++)
            out[i] = x[i] * scale * weight[i];
    }
}

void dense_swiglu(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

void dense_softmax(float *x, size_t n)
{
    float most = -INFINITY, sum = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - most);
        sum += x[i];
    }
    for (size_t i = 0; i < n; i++)
        x[i] /= sum;
}
