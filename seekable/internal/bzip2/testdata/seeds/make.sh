#!/bin/sh
# Makes the seeds of the fuzzers and of the truncation and bit-flip sweeps again. Needs bzip2, lbzip2 and seq.
set -e
cd "$(dirname "$0")"
seq 1 52000 | awk '{print $1 % 7}' | bzip2 > text.bz2
seq 1 60 | lbzip2 > small.bz2
head -c 200 /dev/urandom | bzip2 > random.bz2
head -c 120000 /dev/zero | bzip2 -1 > zeros.bz2
{ seq 1 99 | bzip2; bzip2 < /dev/null; seq 5 200 | bzip2 -1; } > streams.bz2
{ seq 1 30 | bzip2; printf '\0\0\0\0\0\0\0\0'; } > padded.bz2
