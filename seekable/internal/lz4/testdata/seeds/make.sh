#!/bin/sh
# Makes the seeds of the fuzzers and of the truncation and bit-flip sweeps again. Needs lz4, seq and python3.
set -e
cd "$(dirname "$0")"
text() { seq 1 250 | sed 's/$/ green bottles hanging on the wall/'; }
text | lz4 -9 -BX > text.lz4
text > plain; lz4 -9 --content-size -qf plain sized.lz4; rm plain
head -c 300 /dev/urandom | lz4 > raw.lz4
head -c 90000 /dev/zero | lz4 -B4 -BD > linked.lz4
head -c 40000 /dev/zero | lz4 -l > legacy.lz4
{ seq 1 200 | lz4; printf '\120\052\115\030\5\0\0\0skip!'; seq 5 300 | lz4 -BX; seq 4 | lz4 --no-frame-crc; } > frames.lz4
# An Apple stream, of the blocks of a linked frame.
{ text; text; text; text; text; text; text; text; } | lz4 -9 -B4 -BD --no-frame-crc | python3 -c '
import struct, sys
s = sys.stdin.buffer.read(); out = sys.stdout.buffer; at = 7; left = 8 * 9392
while True:
    n, = struct.unpack_from("<I", s, at); at += 4
    if n == 0: break
    size = min(65536, left); left -= size
    assert n < 1 << 31
    out.write(b"bv41" + struct.pack("<II", size, n) + s[at:at+n]); at += n
out.write(b"bv4-" + struct.pack("<I", 9) + b"the rest\n" + b"bv4$")' > apple.lz4
