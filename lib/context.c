/* SPDX-License-Identifier: Apache-2.0 */
/* The context: options, version, features. */
#include "objects.h"

#define TEXT_(x) #x
#define TEXT(x)  TEXT_(x)

const char *anykv_version(void)
{
    return TEXT(ANYKV_VERSION_MAJOR) "." TEXT(ANYKV_VERSION_MINOR) "." TEXT(ANYKV_VERSION_PATCH);
}

int anykv_feature(const char *name)
{
    static const char *const built[] = {
#if defined(AKV_WITH_OPENCL)
        "opencl",
#endif
#if defined(AKV_WITH_CUDA)
        "cuda",
#endif
#if defined(AKV_HAVE_AVX2)
        "avx2",
#endif
#if defined(AKV_HAVE_AVX512)
        "avx512",
#endif
#if defined(AKV_HAVE_NEON)
        "neon",
#endif
        NULL,
    };
    for (size_t i = 0; name && built[i]; i++)
        if (strcmp(name, built[i]) == 0)
            return 1;
    return 0;
}

anykv_status anykv_context_create(const anykv_context_options *options, anykv_context **context_out)
{
    if (!context_out)
        return akv_fail(NULL, ANYKV_E_ARG, "context_out: NULL");
    /* Made on the stack first: the context's own memory comes from the caller's hooks too. */
    anykv_context draft = {.options = ANYKV_CONTEXT_OPTIONS_INIT};
    anykv_status status =
        akv_options(NULL, "context options", &draft.options, sizeof draft.options, options);
    if (status)
        return status;
    if (!draft.options.alloc != !draft.options.free)
        return akv_fail(NULL, ANYKV_E_ARG, "context options: %s is set without %s",
                        draft.options.alloc ? "alloc" : "free",
                        draft.options.alloc ? "free" : "alloc");
    if (draft.options.log_level < ANYKV_LOG_ERROR || draft.options.log_level > ANYKV_LOG_DEBUG)
        return akv_fail(NULL, ANYKV_E_ARG, "context options.log_level: %d is not between 0 and 3",
                        draft.options.log_level);
    anykv_context *context = akv_alloc(&draft, 1, sizeof *context);
    if (!context)
        return ANYKV_E_MEMORY;
    context->options = draft.options;
    status = akv_mutex_init(context, &context->lock);
    if (!status) {
        status = akv_mutex_init(context, &context->errors.lock);
        if (status)
            akv_mutex_destroy(&context->lock);
    }
    if (status) {
        akv_free(&draft, context);
        return status;
    }
    context->errors.ready = true;
    *context_out = context;
    return ANYKV_OK;
}

void anykv_context_destroy(anykv_context *context)
{
    if (!context)
        return;
    anykv_context draft = {.options = context->options};
    akv_free(context, context->devices);
    akv_mutex_destroy(&context->errors.lock);
    akv_mutex_destroy(&context->lock);
    akv_free(&draft, context);
}
