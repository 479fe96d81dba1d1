#!/bin/sh
# Makes the images that seed the fuzz tests, with qemu-img 7.2 (Debian package qemu-utils). They are committed: run it to change them.
# The disk is one part text, one part noise and one part zeros; images that are mostly zeros are kept gzipped.
set -e
cd "$(dirname "$0")"
rm -f ./*.qcow2 ./*.gz
{ yes 'machine image' | head -c 6144; head -c 1536 /dev/urandom; head -c 4608 /dev/zero; printf 'end %1020s'; } > disk.raw
convert() { qemu-img convert -f raw -O "$1" -o "$2" $4 disk.raw "$3"; }

convert qcow2 cluster_size=512 plain.qcow2
convert qcow2 cluster_size=512,compat=0.10 v2.qcow2 -c
convert qcow2 cluster_size=1k,compression_type=zstd zstd.qcow2 -c
convert qcow2 cluster_size=16k,extended_l2=on subclusters.qcow2
convert qcow2 cluster_size=512 zeros.qcow2
qemu-io -f qcow2 -c 'write -z 1k 1k' -c 'discard 4k 1k' zeros.qcow2 > /dev/null
qemu-img snapshot -c snapshot zeros.qcow2
qemu-io -f qcow2 -c 'write -P 5 1536 1k' zeros.qcow2 > /dev/null

convert vpc subformat=dynamic,force_size=on dynamic.vhd
convert vpc subformat=fixed,force_size=on fixed.vhd
convert vdi static=off dynamic.vdi
convert vmdk subformat=monolithicSparse sparse.vmdk
convert vmdk subformat=streamOptimized stream.vmdk
convert vhdx subformat=dynamic,block_size=1M dynamic.vhdx

# Partitioned disks, by sfdisk 2.38 (fdisk) and sgdisk 1.0.9 (gdisk): the smallest table, and the usual one.
truncate -s 12K sfdisk.raw
printf 'label: gpt\nlabel-id: 6D616368-696E-6566-7321-000000000001\ntable-length: 4\nfirst-lba: 3\n' | sfdisk -q sfdisk.raw
truncate -s 1M sgdisk.raw
sgdisk -U 6D616368-696E-6566-7321-000000000002 -n 1:0:0 -u 1:6D616368-696E-6566-7321-000000000003 sgdisk.raw > /dev/null
gzip -9n sfdisk.raw sgdisk.raw

gzip -9n subclusters.qcow2 dynamic.vhd fixed.vhd dynamic.vdi sparse.vmdk stream.vmdk dynamic.vhdx
rm disk.raw
