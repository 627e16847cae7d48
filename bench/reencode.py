#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What re-encoding costs beside encoding once: errors of chains of formats, on Gaussian rows and on a
file of real keys, values and queries.  Needs NumPy.
Usage: bench/reencode.py libanykv.so [dump.safetensors]

A chain is what the reencode kernel does: rows are rotated once (in double, here), then every format
decodes what the one before stored.  Output error: |out - exact| / |exact| over queries and heads, the
mean over layers; keys and values take the same chain; no sinks, no recent window."""
import ctypes
import json
import sys
import numpy as np

FORMATS = {"F16": 2, "I8": 4, "N6": 5, "N5": 6, "N4": 7, "N3": 8, "N2": 9}
CHAINS = ["I8", "N6", "I8 N6", "N5", "I8 N5", "N4", "I8 N4", "N5 N4", "N3", "I8 N3", "N4 N3", "I8 N4 N3",
          "N2", "I8 N2", "N4 N2", "N3 N2", "I8 N4 N2", "I8 N4 N3 N2"]


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("format", ctypes.c_int), ("transform", ctypes.c_int),
                ("head_dim", ctypes.c_uint32), ("search", ctypes.c_int), ("calibration", ctypes.c_void_p),
                ("layer", ctypes.c_uint32), ("side", ctypes.c_uint32), ("head", ctypes.c_uint32),
                ("position", ctypes.c_uint32)]


class View(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("mem", ctypes.c_void_p), ("offset", ctypes.c_uint64),
                ("dtype", ctypes.c_int), ("token_stride", ctypes.c_uint64), ("head_stride", ctypes.c_uint64)]


class Library:
    def __init__(self, path):
        self.so = ctypes.CDLL(path)
        self.so.anykv_error_detail.restype = ctypes.c_char_p
        self.context, self.device = ctypes.c_void_p(), ctypes.c_void_p()
        self.call("context_create", None, ctypes.byref(self.context))
        self.call("device_open", self.context, b"cpu", None, ctypes.byref(self.device))

    def call(self, name, *arguments):
        if getattr(self.so, "anykv_" + name)(*arguments) != 0:
            sys.exit("anykv_%s: %s" % (name, self.so.anykv_error_detail().decode()))

    def through(self, rows, name):
        """f32 rows to a format and back."""
        rows = np.ascontiguousarray(rows, np.float32)
        back, dim = np.empty_like(rows), rows.shape[-1]
        count = rows.size // dim
        options = Options(ctypes.sizeof(Options), FORMATS[name], 0, dim, 1, None, 0, 0, 0, 0)
        codec, size = ctypes.c_void_p(), ctypes.c_uint64()
        self.call("codec_create", self.device, ctypes.byref(options), ctypes.byref(codec))
        self.call("codec_bytes", codec, ctypes.c_uint64(count), ctypes.byref(size))
        packed = ctypes.create_string_buffer(size.value)
        view = View(rows.ctypes.data, None, 0, 1, dim, dim)
        self.call("codec_encode", codec, ctypes.byref(view), ctypes.c_uint32(count), ctypes.c_uint32(1),
                  packed, size, None)
        view.data = back.ctypes.data
        self.call("codec_decode", codec, packed, size, ctypes.c_uint32(count), ctypes.c_uint32(1),
                  ctypes.byref(view))
        self.so.anykv_codec_destroy(codec)
        return back

    def chain(self, rows, chain):
        for name in chain.split():
            rows = self.through(rows, name)
        return rows.astype(np.float64)


def decibels(exact, stored):
    return 10 * np.log10((exact**2).sum() / ((stored - exact) ** 2).sum())


def rotate(x):
    n = x.shape[-1] & -x.shape[-1]
    matrix = np.array([[1.0]])
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (x.reshape(-1, n) @ matrix / np.sqrt(n)).reshape(x.shape)


def load(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    meta = header.pop("__metadata__")
    types = {"F16": np.float16, "F32": np.float32, "I32": np.int32}
    tensors = {name: np.frombuffer(data[slice(*t["data_offsets"])], types[t["dtype"]]).reshape(t["shape"])
               for name, t in header.items()}
    return meta, tensors


def attend(q, k, v, first, scale):
    """q [n][heads][D], k and v [T][kv][D]; causal."""
    group = q.shape[1] // k.shape[1]
    score = np.einsum("nhd,thd->hnt", q, np.repeat(k, group, axis=1)) * scale
    hidden = np.arange(k.shape[0])[None, :] > first + np.arange(len(q))[:, None]
    score[:, hidden] = -np.inf
    weight = np.exp(score - score.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    return np.einsum("hnt,thd->nhd", weight, np.repeat(v, group, axis=1))


def real(library, path):
    meta, tensors = load(path)
    first, scale = int(meta["q_first"]), float(meta["scale"])
    result = {chain: [] for chain in CHAINS}
    for layer in meta["layers"].split(","):
        q, k, v = (tensors["layers.%s.%s" % (layer.strip(), side)].astype(np.float64) for side in "qkv")
        q, k, v = q[-128:], rotate(k), rotate(v)
        exact = attend(rotate(q), k, v, k.shape[0] - len(q), scale)
        for chain in CHAINS:
            out = attend(rotate(q), library.chain(k, chain), library.chain(v, chain), k.shape[0] - len(q), scale)
            error = np.linalg.norm(out - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
            result[chain].append(error.mean())
    return {chain: np.mean(errors) for chain, errors in result.items()}


def main():
    library = Library(sys.argv[1])
    rows = np.random.default_rng(1).standard_normal((8000, 128)).astype(np.float32)
    outputs = real(library, sys.argv[2]) if len(sys.argv) > 2 else {}
    print("%-14s %8s %12s" % ("F16 then", "SQNR dB", "output error"))
    for chain in CHAINS:
        print("%-14s %8.2f %12s" % (chain, decibels(rows, library.chain(rows, chain)),
                                    "%.4f" % outputs[chain] if chain in outputs else ""))


main()
