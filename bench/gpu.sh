#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One run on a machine with a GPU: verifies and measures cuda, opencl and cpu, and ends with a short table.
# usage: bench/gpu.sh [-b BUILD] [-o OUT] [-n ELEMENTS] [-d "DEVICES"] [-s]
#   -b BUILD     built tree that holds tools/anykv (default: the current folder)
#   -o OUT       folder that receives the JSON lines and logs (default: bench-gpu)
#   -n ELEMENTS  of each row of verify's encode and decode on GPUs (default: 1e8; the rest a tenth)
#   -d DEVICES   what to run (default: cuda opencl cpu; one that is not there is said to be absent)
#   -s           skip verify
# Exit status 1: a verification failed.
set -u
build=.
out=bench-gpu
elements=100000000
devices='cuda opencl cpu'
verify=yes
while [ $# -gt 0 ]; do
    case $1 in
    -b) build=$2 && shift 2 ;;
    -o) out=$2 && shift 2 ;;
    -n) elements=$(awk -v n="$2" 'BEGIN { printf "%d", n }') && shift 2 ;;
    -d) devices=$2 && shift 2 ;;
    -s) verify=no && shift ;;
    *) sed -n '3,11s/^# //p' "$0" >&2 && exit 2 ;;
    esac
done
anykv=$build/tools/anykv
[ -x "$anykv" ] || { echo "$0: $anykv is not there (-b BUILD)" >&2; exit 3; }
here=$(dirname "$0")
mkdir -p "$out"
failed=0
present=

{
    date -u
    uname -srm
    sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.mem --format=csv,noheader 2>&1
} >"$out/machine.txt"
cat "$out/machine.txt"
"$anykv" devices | tee "$out/devices.txt"

# check DEVICE NAME ARGUMENT…: one verify; its JSON in OUT/verify-DEVICE-NAME.jsonl
check() {
    device=$1
    name=$2
    shift 2
    echo "verify $device: $name …" >&2
    if ! "$anykv" verify --device "$device" --require "$device" --json "$@" \
        >"$out/verify-$device-$name.jsonl" 2>"$out/verify-$device-$name.log"; then
        failed=1
        echo "verify $device $name FAILED:" >&2
        head -n 20 "$out/verify-$device-$name.log" >&2
    fi
}

for device in $devices; do
    if ! "$anykv" verify --device "$device" --kernel rotate --elements 1 >"$out/present.log" 2>&1; then
        echo "$device: absent ($(tail -n 1 "$out/present.log"))"
        continue
    fi
    present="$present $device"
    [ $verify = yes ] || continue
    if [ "$device" = cpu ]; then
        check cpu all --isa all --elements 10000000
    else
        check "$device" encode --kernel encode --elements "$elements"
        check "$device" decode --kernel decode --elements "$elements"
        check "$device" rest --kernel '[!ed]*' --elements $((elements / 10))
    fi
done

# attend DEVICE NAME ARGUMENT…
attend() {
    device=$1
    name=$2
    shift 2
    "$anykv" bench attend --device "$device" --head-dim 128 --q-heads 32 --json "$@" \
        >"$out/attend-$device-$name.jsonl" 2>"$out/attend-$device-$name.log" ||
        echo "attend $device $name: $(tail -n 1 "$out/attend-$device-$name.log")" >&2
}
for device in $present; do
    echo "bench $device …" >&2
    if [ "$device" = cpu ]; then
        threads=1,$(getconf _NPROCESSORS_ONLN)
        "$anykv" bench codec --device cpu --formats I8,N4 --threads "$threads" --json \
            >"$out/codec-cpu.jsonl" 2>"$out/codec-cpu.log"
        attend cpu decode --gqa 4 --tokens 32768 --threads "$threads"
        continue
    fi
    "$anykv" bench codec --device "$device" --formats F16,I8,N5,N4 --json \
        >"$out/codec-$device.jsonl" 2>"$out/codec-$device.log"
    attend "$device" batch --gqa 4 --batch 64,16 --tokens 8192 --formats q8,q4,F16/F16,I8/N4,N5/N4
    attend "$device" long --gqa 4 --tokens 131072,32768 --formats q8,q4,F16/F16,I8/N4,N5/N4
    attend "$device" maps --gqa 4 --batch 64,16 --tokens 8192 --formats N4/N4 --transforms rotate,centre,matrix
    attend "$device" groups --gqa 8,1 --batch 16 --tokens 8192
    attend "$device" sizes --gqa 4 --batch 16 --tokens 8192 --head-dim 64,256
    attend "$device" prefill --gqa 4 --tokens 8192 --phase prefill --new-tokens 2048 --repeats 7
    "$anykv" bench page --device "$device" --json >"$out/page-$device.jsonl" 2>"$out/page-$device.log"
    "$anykv" bench compress --device "$device" --json >"$out/compress-$device.jsonl" 2>"$out/compress-$device.log"
done
if python3 -c 'import torch' 2>/dev/null; then
    python3 "$here/attend_torch.py" >"$out/torch.txt" 2>&1 || echo "attend_torch.py failed" >&2
fi

echo
echo "== $(sed -n 3,4p "$out/machine.txt" | tr '\n' ' ')"
cat "$out"/verify-*.jsonl 2>/dev/null | awk '
function get(line, name,   at, rest) {
    at = index(line, "\"" name "\": ")
    if (!at) return ""
    rest = substr(line, at + length(name) + 4)
    sub(/[,}].*/, "", rest)
    gsub(/"/, "", rest)
    return rest
}
/"kernel"/ {
    d = get($0, "device")
    elements[d] += get($0, "elements"); differ[d] += get($0, "differ"); failures[d] += get($0, "failures")
    skipped[d] += get($0, "skipped") != "null"
    e = get($0, "max_error"); if (e != "null" && e + 0 > error[d]) error[d] = e + 0
}
END {
    for (d in elements)
        printf "verify %-8s %15.0f elements, %d bytes differ, %d failures, %d skipped, attention error at most %.2g\n",
            d, elements[d], differ[d], failures[d], skipped[d], error[d]
}'
cat "$out"/codec-*.jsonl "$out"/attend-*.jsonl "$out"/page-*.jsonl 2>/dev/null | awk '
function get(line, name,   at, rest) {
    at = index(line, "\"" name "\": ")
    if (!at) return ""
    rest = substr(line, at + length(name) + 4)
    sub(/[,}].*/, "", rest)
    gsub(/"/, "", rest)
    return rest
}
/"bench": "codec"/ && get($0, "working_set") == "memory" {
    printf "%-8s %s %-4s%s%s%s  %.2f of copy, %.0f GiB/s of rows, spread %.2f\n", get($0, "device"), get($0, "op"),
        get($0, "format"), get($0, "rotate") == "true" ? " rotate" : "", get($0, "search") == "true" ? " search" : "",
        get($0, "threads") == "null" ? "" : " t" get($0, "threads"), get($0, "ratio_memcpy"), get($0, "gib_s"), get($0, "spread")
}
/"bench": "page"/ {
    printf "%-8s %s of %s blocks of %s bytes  %.1f us, %.1f GiB/s, %.2f of one copy, spread %.2f\n", get($0, "device"),
        get($0, "op"), get($0, "blocks"), get($0, "block_bytes"), get($0, "us"), get($0, "gib_s"), get($0, "ratio_copy"),
        get($0, "spread")
}
/"bench": "attend"/ {
    printf "%-8s %s %s/%s%s d%s %s x %s, %s/%s%s  %.1f us, %.2f of copy, %.2f x F16, spread %.2f\n", get($0, "device"),
        get($0, "phase"), get($0, "k"), get($0, "v"), get($0, "transform") == "rotate" || get($0, "transform") == "none" ? "" : " " get($0, "transform"), get($0, "head_dim"), get($0, "batch"), get($0, "tokens"),
        get($0, "q_heads"), get($0, "kv_heads"), get($0, "threads") == "null" ? "" : " t" get($0, "threads"),
        get($0, "us"), get($0, "share_of_copy"), get($0, "ratio_f16"), get($0, "spread")
}'
exit $failed
