/* SPDX-License-Identifier: Apache-2.0 */
/* What the methods of `anykv bench compress` share: a row of the table. */
#ifndef AKV_BENCH_COMPRESS_H
#define AKV_BENCH_COMPRESS_H
#include "bench.h"

/* One operation on the rows of copy.from or copy.to. */
struct compress_row {
    struct bench_device *device;
    struct bench_copy *copy; /* of as many bytes as the rows have */
    const char *op, *method, *set;
    double elements;
    double packed; /* bytes that the rows take compressed; 0: does not say */
    bench_work *work;
    void *user;
};
/* Measures it against the copy and adds its row, if --filter takes OP/METHOD/SET/tTHREADS. */
anykv_status compress_measure(struct bench *b, const struct compress_row *row);

/* Does --filter take one of these operations of a method?  Then its data are worth making. */
bool compress_wanted(const struct bench *b, const struct bench_device *device,
                     const char *const *ops, uint32_t count, const char *method, const char *set);

/* Gaussian numbers (Box and Muller 1958), the same in every run. */
void compress_gauss(float *x, uint32_t count);

/* Each method's rows on one device. */
anykv_status compress_bx16(struct bench *b, struct bench_device *device);
anykv_status compress_rans(struct bench *b, struct bench_device *device);
anykv_status compress_lowrank(struct bench *b, struct bench_device *device);

#endif
