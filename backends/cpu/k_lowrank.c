/* SPDX-License-Identifier: Apache-2.0 */
/* CPU kernels of the compress family: low rank, and dense products. */
#include "k_lowrank_body.h"

LOW_KERNELS(scalar)
