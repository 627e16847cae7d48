/* SPDX-License-Identifier: Apache-2.0 */
/* The codec alone: every format's size and error on rows of Gaussian noise. */
#include <anykv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 512, DIM = 128 };

static void check(anykv_status status, const char *what)
{
    if (status != ANYKV_OK) {
        fprintf(stderr, "%s: %s (%s)\n", what, anykv_status_text(status), anykv_error_detail());
        exit(1);
    }
}

int main(void)
{
    static float rows[ROWS * DIM], back[ROWS * DIM];
    anykv_context *context;
    anykv_device *device;
    check(anykv_context_create(NULL, &context), "context");
    check(anykv_device_open(context, "cpu", NULL, &device), "device");

    for (int i = 0; i < ROWS * DIM; i++) { /* sum of twelve uniform numbers: nearly Gaussian */
        float sum = -6.0f;
        for (int j = 0; j < 12; j++)
            sum += (float)rand() / (float)RAND_MAX;
        rows[i] = sum;
    }
    printf("format  bits/element      bytes   SQNR dB\n");
    for (int format = ANYKV_F32; format <= ANYKV_N2; format++) {
        anykv_codec_options options = ANYKV_CODEC_OPTIONS_INIT;
        anykv_codec *codec;
        uint64_t bytes;
        options.format = (anykv_format)format;
        options.head_dim = DIM;
        if (format <= ANYKV_BF16) { /* raw rows are never transformed */
            options.transform = ANYKV_TRANSFORM_NONE;
            options.search = 0;
        }
        check(anykv_codec_create(device, &options, &codec), "codec");
        check(anykv_codec_bytes(codec, ROWS, &bytes), "bytes");
        void *packed = malloc((size_t)bytes);
        if (packed == NULL)
            return 1;
        anykv_view in = anykv_view_host(rows, ANYKV_F32, 1, DIM);
        anykv_view out = anykv_view_host(back, ANYKV_F32, 1, DIM);
        check(anykv_codec_encode(codec, &in, ROWS, 1, packed, bytes, NULL), "encode");
        check(anykv_codec_decode(codec, packed, bytes, ROWS, 1, &out), "decode");

        double signal = 0.0, noise = 0.0;
        for (int i = 0; i < ROWS * DIM; i++) {
            double error = (double)rows[i] - (double)back[i];
            signal += (double)rows[i] * (double)rows[i];
            noise += error * error;
        }
        printf("%-6s  %12.3f  %9llu   ", anykv_format_name((anykv_format)format),
               anykv_format_bits((anykv_format)format, DIM), (unsigned long long)bytes);
        if (noise > 0.0)
            printf("%7.2f\n", 10.0 * log10(signal / noise));
        else
            printf("  exact\n");
        free(packed);
        anykv_codec_destroy(codec);
    }
    anykv_device_close(device);
    anykv_context_destroy(context);
    return 0;
}
