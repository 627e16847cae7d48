#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cuts some layers out of a dump of keys, values and queries: make-cut.py SOURCE LAYERS OUT

LAYERS is a comma list.  All tokens and queries of those layers are kept, bytes unchanged."""
import json
import struct
import sys


def main(source, layers, out):
    with open(source, "rb") as f:
        length = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(length))
        data = f.read()
    meta = dict(header.pop("__metadata__"))
    keep = ["tokens"] + [f"layers.{l}.{s}" for l in layers.split(",") for s in "kqv"]
    meta["layers"] = layers
    cut, parts, offset = {"__metadata__": dict(sorted(meta.items()))}, [], 0
    for name in keep:
        begin, end = header[name]["data_offsets"]
        cut[name] = dict(header[name], data_offsets=[offset, offset + end - begin])
        parts.append(data[begin:end])
        offset += end - begin
    text = json.dumps(cut, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(out, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


main(*sys.argv[1:])
