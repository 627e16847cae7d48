/* SPDX-License-Identifier: Apache-2.0 */
/* Small dense linear algebra in double precision, for calibrations: row-major n x n matrices. */
#ifndef AKV_LINALG_H
#define AKV_LINALG_H
#include "internal.h"

/* a = L * L^T, a symmetric; L replaces a, zero above the diagonal.  False: not positive definite
 * (or not finite); a is then undefined. */
bool akv_cholesky(double *a, uint32_t n);

/* Turns the rows of m until they are orthogonal, and the rows of `with` by the same angles: with
 * m = U * S * V^T these become S * V^T and U^T * with, largest singular value first; s receives S.
 * One-sided Jacobi, cyclic order.  False: not finite, or it does not converge. */
bool akv_orthogonalise(double *m, double *with, double *s, uint32_t n);

/* inverse = a^-1 by elimination with row pivots; a is destroyed.  False: singular to working
 * precision or not finite. */
bool akv_invert(double *a, double *inverse, uint32_t n);

#endif
