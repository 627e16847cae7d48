#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Digests of ggml's blocks, from their public definition and in NumPy alone: tests/test_ggml.c makes
the same inputs, runs the library's code and compares.  Usage: make-ggml.py > ggml.inc

Inputs come from splitmix64 and integers, so that both sides have the same ones:
  block b, element j: r = mix(b * 32 + j), by b % 4:
    0  a half, finite and not -0: bits r & 0xFFFF, exponent 31 turned into 15, 0x8000 into 0
    1  ((r >> 8) % 8191 - 4095) * 2^(b % 16 - 12)
    2  ((r >> 8) % 33 - 16) / 2 * 2^(b % 8 - 4), many ties
    3  the sum of four of r's 16-bit numbers less 131070, * 2^-16
Decoding: block s has the scale with bits s, for every s; its minimum has bits (s * 40503) & 0xFFFF, its
code bytes (and fifth bits) are bytes of mix(2^40 + 8s + k), little-endian, k = 0 …; a NaN is 0x7FC00000."""
import hashlib
import numpy as np

BLOCKS = 8192
F = np.float32
VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], F)


def mix(n):
    with np.errstate(over="ignore"):
        z = n.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def inputs():
    b, j = np.meshgrid(np.arange(BLOCKS), np.arange(32), indexing="ij")
    r = mix(b * 32 + j)
    half = (r & np.uint64(0xFFFF)).astype(np.uint16)
    half = np.where(half & 0x7C00 == 0x7C00, half ^ 0x4000, half).astype(np.uint16)
    half = np.where(half == 0x8000, 0, half).astype(np.uint16)
    kinds = [
        half.view(np.float16).astype(F),
        ((r >> np.uint64(8)) % np.uint64(8191)).astype(np.int64) - 4095,
        ((r >> np.uint64(8)) % np.uint64(33)).astype(np.int64) - 16,
        sum((r >> np.uint64(k) & np.uint64(0xFFFF)).astype(np.int64) for k in (0, 16, 32, 48)) - 131070,
    ]
    scaled = [
        kinds[0],
        kinds[1].astype(F) * np.exp2(b % 16 - 12).astype(F),
        kinds[2].astype(F) * np.exp2(b % 8 - 5).astype(F),
        kinds[3].astype(F) * F(2.0**-16),
    ]
    return np.choose(b % 4, scaled).astype(F)


def inverse(d):
    safe = np.where(d == 0, F(1), d).astype(F)
    return np.where(d == 0, F(0), F(1) / safe).astype(F)


def first_largest(x):
    return x[np.arange(len(x)), np.argmax(np.abs(x), axis=1)]


def half_bytes(d):
    return d.astype(np.float16).view(np.uint16).astype("<u2")[:, None].view(np.uint8)


def nibbles(code):
    return (code[:, :16] & 15 | (code[:, 16:] & 15) << 4).astype(np.uint8)


def fifth(code):
    bits = np.zeros(len(code), np.uint32)
    for k in range(32):
        bits |= ((code[:, k] >> 4) & 1).astype(np.uint32) << np.uint32(k)
    return bits.astype("<u4")[:, None].view(np.uint8)


def truncated(x):
    return np.trunc(x).astype(np.int32)


def q8_0(x):
    d = (np.abs(x).max(axis=1) / F(127)).astype(F)
    t = (x * inverse(d)[:, None]).astype(F)
    away = np.where(t < 0, -np.floor(-t.astype(np.float64) + 0.5), np.floor(t.astype(np.float64) + 0.5))
    return [half_bytes(d), away.astype(np.int8).view(np.uint8)]


def symmetric(x, levels):
    d = (first_largest(x) / F(-levels)).astype(F)
    t = (x * inverse(d)[:, None]).astype(F)
    code = np.minimum(truncated((t + F(levels + 0.5)).astype(F)), 2 * levels - 1)
    return d, code


def affine(x, top):
    least, most = x.min(axis=1), x.max(axis=1)
    d = ((most - least).astype(F) / F(top)).astype(F)
    t = ((x - least[:, None]).astype(F) * inverse(d)[:, None]).astype(F)
    code = truncated((t + F(0.5)).astype(F))
    return d, least, np.minimum(code, 15) if top == 15 else code


def q4_0(x):
    d, code = symmetric(x, 8)
    return [half_bytes(d), nibbles(code)]


def q5_0(x):
    d, code = symmetric(x, 16)
    return [half_bytes(d), fifth(code), nibbles(code)]


def q4_1(x):
    d, m, code = affine(x, 15)
    return [half_bytes(d), half_bytes(m), nibbles(code)]


def q5_1(x):
    d, m, code = affine(x, 31)
    return [half_bytes(d), half_bytes(m), fifth(code), nibbles(code)]


def nearest_value(t):
    above = np.clip((t[..., None] >= VALUES).sum(axis=-1), 1, 15)
    low = (t - VALUES[above - 1]).astype(F) < (VALUES[above] - t).astype(F)
    code = np.where(low, above - 1, above)
    return np.where(t <= VALUES[0], 0, np.where(t >= VALUES[15], 15, code))


def iq4_nl(x):
    first = first_largest(x)
    none = np.abs(first) < F(1e-15)
    safe = np.where(none, F(1), first).astype(F)
    turn = (F(1) / (safe / VALUES[0]).astype(F)).astype(F)
    code = nearest_value((turn[:, None] * x).astype(F))
    above, below = np.zeros(len(x), F), np.zeros(len(x), F)
    for k in range(32):
        value = VALUES[code[:, k]]
        weighted = ((x[:, k] * x[:, k]).astype(F) * value).astype(F)
        above = (above + (weighted * x[:, k]).astype(F)).astype(F)
        below = (below + (weighted * value).astype(F)).astype(F)
    d = np.where(none, F(0), above / np.where(none, F(1), below)).astype(F)
    return [half_bytes(d), nibbles(np.where(none[:, None], 0, code))]


def decoded(name):
    """All scales: the values, as f32 bits."""
    s = np.arange(65536, dtype=np.uint64)
    raw = np.stack([mix(np.uint64(1 << 40) + s * np.uint64(8) + np.uint64(k)) for k in range(5)], axis=1)
    raw = raw.astype("<u8").view(np.uint8).reshape(65536, 40)
    d = s.astype(np.uint16).view(np.float16).astype(F)
    m = (s * np.uint64(40503) & np.uint64(0xFFFF)).astype(np.uint16).view(np.float16).astype(F)
    if name == "Q8_0":
        code = raw[:, :32].view(np.int8).astype(F)
    else:
        wide = name in ("Q5_0", "Q5_1")
        high = raw[:, :4].copy().view("<u4")[:, 0] if wide else None
        low = raw[:, 4:20] if wide else raw[:, :16]
        code = np.concatenate([low & 15, low >> 4], axis=1).astype(np.int32)
        if wide:
            code |= (((high[:, None] >> np.arange(32, dtype=np.uint32)) & 1) << 4).astype(np.int32)
        code = VALUES[code] if name == "IQ4_NL" else (code - {"Q4_0": 8, "Q5_0": 16}.get(name, 0)).astype(F)
    with np.errstate(invalid="ignore", over="ignore"):
        value = (d[:, None] * code).astype(F)
        if name in ("Q4_1", "Q5_1"):
            value = (value + m[:, None]).astype(F)
    bits = value.view(np.uint32).copy()
    bits[np.isnan(value)] = 0x7FC00000
    return bits.astype("<u4").tobytes()


def main():
    x = inputs()
    formats = {"Q8_0": q8_0, "Q5_1": q5_1, "Q5_0": q5_0, "Q4_1": q4_1, "Q4_0": q4_0, "IQ4_NL": iq4_nl}
    print("/* Written by make-ggml.py: SHA-256 of 8192 blocks and of all 65536 scales decoded; block 1. */")
    for name, function in formats.items():
        blocks = np.concatenate(function(x), axis=1)
        print('{AKV_%s,' % name)
        print(' "%s",' % hashlib.sha256(blocks.tobytes()).hexdigest())
        print(' "%s",' % hashlib.sha256(decoded(name)).hexdigest())
        print(' "%s"},' % blocks[1].tobytes().hex())


main()
