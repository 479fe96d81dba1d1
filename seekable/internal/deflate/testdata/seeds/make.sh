#!/bin/sh
# Makes the seeds of the fuzzers and of the truncation and bit-flip sweeps again. Needs gzip, pigz, tabix (bgzip) and seq.
set -e
cd "$(dirname "$0")"
text() { seq 1 300 | sed 's/$/ green bottles hanging on the wall/'; }
text | gzip -n6 > text-6.gz
text | head -c 1500 | pigz -n -11 > zopfli.gz
seq 1 40 | gzip -n1 > fixed.gz
head -c 300 /dev/urandom | gzip -n1 > stored.gz
head -c 40000 /dev/zero | gzip -n9 > zeros.gz
seq 1 300 | bgzip > bgzip.gz
{ seq 1 200 | gzip -n; seq 5 900 | pigz -nc; printf 'and the last' > named; gzip -9c named; rm named; } > members.gz
{ seq 1 99 | gzip -n; printf '\0\0\0\0\0\0\0\0'; } > padded.gz
