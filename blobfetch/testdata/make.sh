#!/bin/sh
# Makes the manifests and indexes in this folder: a one-layer image as skopeo writes it in both formats, and an index of two
# platforms. Needs skopeo, jq and docker-registry (Debian packages of these names). Run it in this folder.
set -eu
work=$(mktemp -d)
trap 'kill "$registry" 2>/dev/null; rm -rf "$work"' EXIT

cat >"$work/config.yml" <<END
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/data}}
http: {addr: "127.0.0.1:5057"}
END
docker-registry serve "$work/config.yml" >/dev/null 2>&1 &
registry=$!

# A layout of one image that holds /disk/a.img, by hand: skopeo copies, it does not build.
mkdir -p "$work/root/disk" "$work/oci/blobs/sha256"
printf 'a disk' >"$work/root/disk/a.img"
tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$work/root" -cf "$work/layer.tar" disk
diff=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
gzip -n "$work/layer.tar"
put() { sum=$(sha256sum "$1" | cut -d' ' -f1); size=$(wc -c <"$1"); cp "$1" "$work/oci/blobs/sha256/$sum"; }
put "$work/layer.tar.gz"; layer=$sum layersize=$size
entries=
for arch in amd64 arm64; do
	printf '{"architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $arch "$diff" >"$work/c"
	put "$work/c"
	printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%d,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":%d,"digest":"sha256:%s"}]}' \
		"$size" "$sum" "$layersize" "$layer" >"$work/m"
	put "$work/m"
	entries="$entries,$(printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":%d,"digest":"sha256:%s","platform":{"architecture":"%s","os":"linux"}}' "$size" "$sum" $arch)"
done
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' "${entries#,}" >"$work/i"
put "$work/i"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/oci/oci-layout"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":%d,"digest":"sha256:%s","annotations":{"org.opencontainers.image.ref.name":"t"}}]}' "$size" "$sum" >"$work/oci/index.json"

until curl -sf http://127.0.0.1:5057/v2/ >/dev/null; do kill -0 "$registry"; done
copy() { skopeo --insecure-policy copy --quiet --dest-tls-verify=false "$@"; }
copy --all "oci:$work/oci:t" docker://127.0.0.1:5057/a:oci
copy --all --format v2s2 "oci:$work/oci:t" docker://127.0.0.1:5057/a:docker
copy "oci:$work/oci:t" docker://127.0.0.1:5057/a:one
copy --format v2s2 "oci:$work/oci:t" docker://127.0.0.1:5057/a:dockerone
for tag in oci docker one dockerone; do
	skopeo inspect --tls-verify=false --raw "docker://127.0.0.1:5057/a:$tag" >"$tag.json"
done

# podman's index, with the annotation that tells its disks apart.
jq -c '.manifests |= (map(.annotations = {disktype: "qemu"} | .platform.architecture = "x86_64") + .)' oci.json >podman.json
