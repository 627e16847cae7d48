/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded code: images and entry points, shared by all devices that are open on one CUDA context. */
#include "cuda.h"
#include <stdio.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct akv_cuda_code *list; /* one for each context; this and their `devices` are guarded by list_lock */

/* It can outlive the context of the library that asked for it, so its memory is nobody's. */
anykv_status akv_cuda_code_open(struct akv_cuda_device *device)
{
    anykv_status status = ANYKV_OK;
    pthread_mutex_lock(&list_lock);
    struct akv_cuda_code *code = list;
    while (code && (code->context != device->context || atomic_load(&code->lost)))
        code = code->next;
    if (!code) {
        code = akv_alloc(NULL, 1, sizeof *code);
        status = code ? akv_mutex_init(device->base.context, &code->lock) : ANYKV_E_MEMORY;
        if (status) {
            akv_free(NULL, code);
            code = NULL;
        } else {
            code->context = device->context;
            code->next = list;
            list = code;
        }
    }
    if (code)
        code->devices++;
    device->code = code;
    pthread_mutex_unlock(&list_lock);
    return status;
}

/* The last device unloads it, while the context is still there. */
void akv_cuda_code_close(struct akv_cuda_device *device)
{
    struct akv_cuda_code *code = device->code;
    if (!code)
        return;
    pthread_mutex_lock(&list_lock);
    if (--code->devices == 0) {
        struct akv_cuda_code **link = &list;
        while (*link != code)
            link = &(*link)->next;
        *link = code->next;
        if (akv_cuda_enter(device) == ANYKV_OK) {
            for (int i = 0; i < AKV_IMAGES; i++)
                if (code->module[i])
                    device->cu->module_unload(code->module[i]);
            akv_cuda_leave(device);
        }
        akv_mutex_destroy(&code->lock);
        akv_free(NULL, code);
    }
    pthread_mutex_unlock(&list_lock);
}

/* Under code->lock, with the context entered. */
static CUresult load(struct akv_cuda_device *device, enum akv_cuda_image image, const char *name,
                     CUfunction *function_out)
{
    struct akv_cuda_code *code = device->code;
    CUresult result = AKV_CU_OK;
    if (!code->module[image])
        result = device->cu->module_load(&code->module[image], akv_cuda_image(image));
    return result ? result : device->cu->module_function(function_out, code->module[image], name);
}

anykv_status akv_cuda_function(struct akv_cuda_device *device, enum akv_cuda_image image, const char *name,
                               uint32_t shared, CUfunction *function_out)
{
    struct akv_cuda_code *code = device->code;
    anykv_status status = ANYKV_OK;
    CUfunction function = NULL;
    int fixed = 0;
    akv_mutex_lock(&code->lock);
    for (uint32_t i = 0; i < code->function_count; i++)
        if (strcmp(code->functions[i].name, name) == 0) {
            *function_out = code->functions[i].function;
            akv_mutex_unlock(&code->lock);
            return ANYKV_OK;
        }
    status = akv_cuda_enter(device);
    if (status)
        goto unlock;
    CUresult result = load(device, image, name, &function);
    if (!result && shared > 0) /* as much as any launch of it may ask for */
        result = device->cu->function_get(&fixed, AKV_CU_FUNC_STATIC_SHARED, function);
    if (!result && shared > 0)
        result = device->cu->function_set(function, AKV_CU_FUNC_DYNAMIC_SHARED, device->shared_optin - fixed);
    akv_cuda_leave(device);
    if (result) {
        status = akv_cuda_fail(device, result, name);
        goto unlock;
    }
    assert(code->function_count < AKV_CUDA_FUNCTIONS);
    snprintf(code->functions[code->function_count].name, sizeof code->functions[0].name, "%s", name);
    code->functions[code->function_count++].function = function;
    *function_out = function;
unlock:
    akv_mutex_unlock(&code->lock);
    return status;
}

/* Results of loading code that mean: not made for this device. */
static bool no_code(CUresult code)
{
    switch (code) {
    case AKV_CU_INVALID_IMAGE:
    case AKV_CU_NO_BINARY:
    case AKV_CU_INVALID_PTX:
    case AKV_CU_NO_JIT:
    case AKV_CU_NEWER_PTX:
    case AKV_CU_JIT_OFF:
    case AKV_CU_NOT_FOUND:
        return true;
    default:
        return false;
    }
}

anykv_status akv_cuda_find_entry(struct akv_cuda_device *device, enum akv_cuda_image image, const char *name,
                                 bool *found_out)
{
    CUfunction function;
    anykv_status status = akv_cuda_enter(device);
    if (status)
        return status;
    akv_mutex_lock(&device->code->lock);
    const CUresult result = load(device, image, name, &function);
    akv_mutex_unlock(&device->code->lock);
    akv_cuda_leave(device);
    *found_out = result == AKV_CU_OK;
    return result && !no_code(result) ? akv_cuda_fail(device, result, name) : ANYKV_OK;
}
