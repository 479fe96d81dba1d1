#!/bin/sh
# Makes the seeds of the fuzzers and of the truncation and bit-flip sweeps again, with xz-utils 5.4.1 and pixz 1.0.7.
set -e
cd "$(dirname "$0")"
text() { seq 1 700 | sed 's/.*/line & of a file that repeats itself/'; }
text | xz -6 >text-crc64.xz
text | xz -0 --check=sha256 --block-size=6000 >blocks-sha256.xz
text | xz --lzma2=preset=1,lc=1,lp=2,pb=0 --check=crc32 >lc1lp2pb0-crc32.xz
(text | xz -1 --check=none; head -c 8 /dev/zero; xz </dev/null; text | head -c 500 | xz -1) >streams.xz
head -c 3000 /dev/zero | xz -6 >zeros.xz
text | xz -9 | xz -1 --check=crc32 >stored-crc32.xz
text | pixz >pixz.xz
text | head -c 2000 | xz --x86 --lzma2=preset=1 >x86.xz
