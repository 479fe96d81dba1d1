#!/bin/sh
# Makes the seeds of the fuzzers and of the truncation and bit-flip sweeps again, with zstd and pzstd 1.5.4. Needs Debian's
# package zstd, seq and /bin/ls.
set -e
cd "$(dirname "$0")"
rm -f -- *.zst
text() { seq 1 "$1" | sed 's/.*/& green bottles hanging on the wall, & to go/'; }
t=$(mktemp -d)
trap 'rm -r "$t"' EXIT
tail -c +30001 /bin/ls | head -c 2500 > "$t/program"
text 120 > "$t/text"
{ cat "$t/program"; head -c 20000 /dev/zero; head -c 1000 "$t/text"; head -c 30000 /dev/zero; } > "$t/disk"
zstd -q -3 -c "$t/program" > program-3.zst
zstd -q -19 -c "$t/text" > text-19.zst
zstd -q -1 -c < "$t/text" > text-piped-1.zst
zstd -q -6 --no-check -c "$t/disk" > disk-6-nocheck.zst
# Blocks of 1 KiB, which repeat tables of the blocks before.
zstd -q --zstd=wlog=10,strategy=2 -c < "$t/text" > text-window-1k.zst
tail -c +40001 /bin/ls | head -c 9000 | zstd -q --zstd=wlog=10,strategy=5 -c > program-window-1k.zst
pzstd -q -1 -c "$t/text" > pzstd.zst
{ printf '\123\052\115\030\005\000\000\000skip!'; zstd -q -c < /dev/null; text 20 | zstd -q -2 -c; zstd -q -1 -c < "$t/program"; seq 9 | zstd -q -c; } > frames.zst
