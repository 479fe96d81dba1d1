#!/bin/sh
# Makes the seeds of the fuzz targets beside this script. Needs Debian's package zstd, and /bin/ls and /etc/services as something to compress.
set -e
cd "$(dirname "$0")"
t=$(mktemp -d)
trap 'rm -r "$t"' EXIT
head -c 40000 /bin/ls > "$t/program"
head -c 12000 /etc/services > "$t/text"
{ head -c 5000 "$t/program"; head -c 300000 /dev/zero; head -c 3000 "$t/text"; head -c 200000 /dev/zero; } > "$t/disk"
zstd -q -3 -c "$t/program" > program-3.zst
zstd -q -19 -c "$t/text" > text-19.zst
zstd -q -1 -c < "$t/text" > text-piped-1.zst
zstd -q -6 --no-check -c "$t/disk" > disk-6-nocheck.zst
zstd -q --zstd=wlog=10,strategy=2 -c < "$t/text" > text-window-1k.zst
pzstd -q -1 -c "$t/text" > pzstd.zst
{ printf '\123\052\115\030\005\000\000\000skip!'; zstd -q -c < /dev/null; zstd -q -2 -c "$t/text"; zstd -q -1 -c < "$t/disk"; } > frames.zst
