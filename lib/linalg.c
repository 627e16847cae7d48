/* SPDX-License-Identifier: Apache-2.0 */
/* Small dense linear algebra in double precision, for calibrations. */
#include "linalg.h"
#include <float.h>
#include <math.h>

#define SWEEPS 60

static double dot(const double *a, const double *b, uint32_t n)
{
    double part[4] = {0.0, 0.0, 0.0, 0.0};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (uint32_t j = 0; j < 4; j++)
            part[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        part[0] += a[i] * b[i];
    return part[0] + part[1] + (part[2] + part[3]);
}

bool akv_cholesky(double *a, uint32_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j <= i; j++) {
            const double left = a[i * n + j] - dot(a + i * n, a + j * n, (uint32_t)j);
            if (i != j)
                a[i * n + j] = left / a[j * n + j];
            else if (left > 0.0 && left <= DBL_MAX)
                a[i * n + i] = sqrt(left);
            else
                return false;
        }
        for (size_t j = i + 1; j < n; j++)
            a[i * n + j] = 0.0;
    }
    return true;
}

/* Rows p and q turned by the angle of cosine c and sine s. */
static void turn(double *p, double *q, double c, double s, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const double a = p[i], b = q[i];
        p[i] = c * a - s * b;
        q[i] = s * a + c * b;
    }
}

static void swap_rows(double *p, double *q, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const double a = p[i];
        p[i] = q[i];
        q[i] = a;
    }
}

/* Makes rows p and q of m orthogonal unless they are; true if they were not. */
static bool turn_pair(double *m, double *with, uint32_t n, size_t p, size_t q)
{
    const double aa = dot(m + p * n, m + p * n, n), bb = dot(m + q * n, m + q * n, n);
    const double ab = dot(m + p * n, m + q * n, n);
    if (fabs(ab) <= 1e-14 * sqrt(aa) * sqrt(bb))
        return false;
    const double zeta = (bb - aa) / (2.0 * ab);
    const double t = (zeta >= 0.0 ? 1.0 : -1.0) / (fabs(zeta) + sqrt(1.0 + zeta * zeta));
    const double c = 1.0 / sqrt(1.0 + t * t);
    turn(m + p * n, m + q * n, c, c * t, n);
    turn(with + p * n, with + q * n, c, c * t, n);
    return true;
}

bool akv_orthogonalise(double *m, double *with, double *s, uint32_t n)
{
    bool turned = true;
    for (int sweep = 0; turned; sweep++) {
        if (sweep == SWEEPS)
            return false;
        turned = false;
        for (size_t p = 0; p + 1 < n; p++)
            for (size_t q = p + 1; q < n; q++)
                turned |= turn_pair(m, with, n, p, q);
    }
    for (size_t i = 0; i < n; i++) {
        s[i] = sqrt(dot(m + i * n, m + i * n, n));
        if (!(s[i] <= DBL_MAX))
            return false;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        size_t largest = i;
        for (size_t j = i + 1; j < n; j++)
            if (s[j] > s[largest])
                largest = j;
        if (largest == i)
            continue;
        const double value = s[i];
        s[i] = s[largest];
        s[largest] = value;
        swap_rows(m + i * n, m + largest * n, n);
        swap_rows(with + i * n, with + largest * n, n);
    }
    return true;
}

/* The row from `column` down whose element in it is largest; n if none is above `least`. */
static size_t pivot_row(const double *a, uint32_t n, size_t column, double least)
{
    size_t pivot = n;
    double best = least;
    for (size_t i = column; i < n; i++)
        if (fabs(a[i * n + column]) > best) {
            best = fabs(a[i * n + column]);
            pivot = i;
        }
    return pivot;
}

bool akv_invert(double *a, double *inverse, uint32_t n)
{
    double largest = 0.0;
    memset(inverse, 0, (size_t)n * n * sizeof *inverse);
    for (size_t i = 0; i < (size_t)n * n; i++) {
        if (!(fabs(a[i]) <= DBL_MAX))
            return false;
        largest = fmax(largest, fabs(a[i]));
    }
    for (size_t i = 0; i < n; i++)
        inverse[i * n + i] = 1.0;
    for (size_t column = 0; column < n; column++) {
        const size_t pivot = pivot_row(a, n, column, 1e-13 * largest);
        if (pivot == n)
            return false;
        if (pivot != column) {
            swap_rows(a + pivot * n, a + column * n, n);
            swap_rows(inverse + pivot * n, inverse + column * n, n);
        }
        const double factor = 1.0 / a[column * n + column];
        for (size_t i = 0; i < n; i++) {
            a[column * n + i] *= factor;
            inverse[column * n + i] *= factor;
        }
        for (size_t row = 0; row < n; row++) {
            const double times = a[row * n + column];
            if (row == column || times == 0.0)
                continue;
            for (size_t i = column; i < n; i++)
                a[row * n + i] -= times * a[column * n + i];
            for (size_t i = 0; i < n; i++)
                inverse[row * n + i] -= times * inverse[column * n + i];
        }
    }
    return true;
}
