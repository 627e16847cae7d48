/* SPDX-License-Identifier: Apache-2.0 */
/* In place of the toolkit's header. */
#include "cuda_host.h"
