/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of safetensors files: untrusted input, every size and offset checked before it is used. */
#ifndef AKV_TOOLS_SAFETENSORS_H
#define AKV_TOOLS_SAFETENSORS_H
#include "internal.h"

#define AKV_TENSOR_NAME  128
#define AKV_TENSOR_RANK  8
#define AKV_HEADER_LIMIT (16u << 20) /* bytes of a header; real ones have kilobytes */

struct akv_tensor {
    char name[AKV_TENSOR_NAME];
    char dtype[12]; /* "F16", "I32", … as the file says, a known one */
    uint32_t element_bytes;
    uint32_t rank;
    uint64_t shape[AKV_TENSOR_RANK];
    uint64_t offset, bytes; /* within the data part; bytes = product of shape * element_bytes */
};
struct akv_safetensors;

/* Opens path and checks all of it but the elements: the tensors lie one behind the other without
 * holes or overlaps and end where the file ends.  E_IO: cannot be read; E_DATA: damaged, the detail
 * names the field; E_UNSUPPORTED: a dtype of unknown size; E_MEMORY. */
anykv_status akv_safetensors_open(const char *path, struct akv_safetensors **file_out);
void akv_safetensors_close(struct akv_safetensors *file);
uint32_t akv_safetensors_count(const struct akv_safetensors *file);
const struct akv_tensor *akv_safetensors_at(const struct akv_safetensors *file, uint32_t index);
/* NULL: there is none of that name.  Both live as long as the file. */
const struct akv_tensor *akv_safetensors_find(const struct akv_safetensors *file, const char *name);
const char *akv_safetensors_meta(const struct akv_safetensors *file, const char *key);
/* Reads tensor's bytes into data. */
anykv_status akv_safetensors_read(struct akv_safetensors *file, const struct akv_tensor *tensor,
                                  void *data);

#endif
