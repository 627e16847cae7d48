#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times PyTorch's fp16 attention on the shapes of `anykv bench attend`, one JSON object a line.

usage: attend_torch.py [--head-dim 128] [--repeats 60] [--shapes 64x8192x32x8,...] [--prefill 2048]

A shape is batch x tokens x query heads x kv heads.  Contiguous keys and values, random values, CUDA
events around each call, input sets rotated so that they exceed the L2 cache, medians; also the bandwidth
of a device copy of 2 GiB (bytes read and written), which is the floor's measure.
"""
import argparse
import json
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

SHAPES = "64x8192x32x8,16x8192x32x8,1x131072x32x8,1x32768x32x8,16x8192x32x4,16x8192x32x32"


def median_us(call, sets, repeats):
    """Median and spread of the device time of call(set) in microseconds."""
    for i in range(10):
        call(sets[i % len(sets)])
    times = []
    for i in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call(sets[i % len(sets)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    times.sort()
    return statistics.median(times), times[-2] / times[1]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--head-dim", type=int, default=128)
    options.add_argument("--repeats", type=int, default=60)
    options.add_argument("--shapes", default=SHAPES)
    options.add_argument("--prefill", type=int, default=0, help="new tokens of one sequence, causal")
    o = options.parse_args()
    device = torch.device("cuda")

    half = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    other = torch.empty_like(half)
    us, spread = median_us(lambda s: other.copy_(half), [0], 20)
    print(json.dumps({"peer": "copy", "gb_s": 2 * half.numel() / us / 1e3, "us": us, "spread": spread,
                      "card": torch.cuda.get_device_name(), "torch": torch.__version__}))
    del half, other

    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    for shape in o.shapes.split(","):
        batch, tokens, q_heads, kv_heads = map(int, shape.split("x"))
        new = o.prefill or 1
        tokens = o.prefill or tokens
        bytes_of_set = 2 * 2 * batch * tokens * kv_heads * o.head_dim
        count = max(3, min(12, -(-400_000_000 // bytes_of_set)))

        def make():
            return tuple(torch.randn(batch, h, t, o.head_dim, dtype=torch.float16, device=device)
                         for h, t in ((q_heads, new), (kv_heads, tokens), (kv_heads, tokens)))

        sets = [make() for _ in range(count)]
        for name, backend in backends.items():
            row = {"peer": name, "phase": "prefill" if o.prefill else "decode", "batch": batch, "tokens": tokens,
                   "q_heads": q_heads, "kv_heads": kv_heads, "head_dim": o.head_dim, "us": None, "spread": None}
            try:
                with sdpa_kernel(backend):
                    row["us"], row["spread"] = median_us(
                        lambda s: sdpa(*s, is_causal=bool(o.prefill), enable_gqa=q_heads != kv_heads), sets, o.repeats)
            except RuntimeError as error:
                row["reason"] = str(error).splitlines()[0][:120]
            print(json.dumps(row), flush=True)
        del sets
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
