/* SPDX-License-Identifier: Apache-2.0 */
/* The known-answer test that opening the CPU device runs. */
#ifndef AKV_CPU_KAT_H
#define AKV_CPU_KAT_H
#include "device.h"

uint64_t akv_cpu_kat_hash(const struct akv_cpu_kernel *encode, const struct akv_cpu_kernel *decode,
                          uint32_t format);
anykv_status akv_cpu_kat(struct akv_cpu_device *device);

#endif
