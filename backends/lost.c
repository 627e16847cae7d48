/* SPDX-License-Identifier: Apache-2.0 */
/* Lost devices: noted once, with the first cause, for as long as the device is open. */
#include "backend.h"
#include <stdio.h>

void akv_device_lose(struct akv_device *device, const char *what)
{
    unsigned state = AKV_NOT_LOST;
    if (!atomic_compare_exchange_strong(&device->lost, &state, AKV_BEING_LOST))
        return;
    snprintf(device->lost_to, sizeof device->lost_to, "%s", what);
    atomic_store_explicit(&device->lost, AKV_LOST, memory_order_release);
    akv_log(device->context, ANYKV_LOG_ERROR, "device %s is lost: %s", device->info.name, what);
}

anykv_status akv_device_lost(struct akv_device *device, const char *call)
{
    /* Another thread may just be writing the cause. */
    const bool told = atomic_load_explicit(&device->lost, memory_order_acquire) == AKV_LOST;
    return akv_fail(device->context, ANYKV_E_DEAD, "%s: device %.60s is lost%s%s; close it", call,
                    device->info.name, told ? ": " : "", told ? device->lost_to : "");
}
