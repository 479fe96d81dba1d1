// Package blobfetch turns a reference into an image, an image into its disks, and a disk's blob into ranges of immutable bytes.
//
// # Concept
//
// A reference (docker://host/repo:tag, oci-dir://PATH, oci-archive:PATH, an http(s) URL, a path) is resolved once, by
// [Client.Resolve], to an [Image]. What it resolved to is pinned: a digest for registries and layouts, strong ETag or
// Last-Modified with the size for URLs, device, inode, size and mtime for local files. An [Image] lists its [Disk]s;
// [Image.Choose] picks one of them, and [Client.Open] gives a [Blob] whose ReadAt is the only way bytes leave this package.
//
// # Rules
//
//   - ReadAt fills all of p or fails. Parallel calls are allowed. What passes is positioned by what the server said
//     (Content-Range), checked against what was asked, never by what was hoped.
//   - A fault that may pass (connection lost, stall, 429, 5xx, a web page from a captive proxy) is retried with back-off and
//     jitter until Config.StallTimeout has gone by without one new byte. What cannot heal (404 on a digest, 401, a changed
//     file, a wrong length) fails at once. Only single ranges with both ends are sent; many servers refuse the rest.
//   - Every error wraps one of the kinds in errors.go (see [Kind]); a caller branches on those, never on text.
//   - Credentials go to the host they belong to and nowhere else: redirects are followed here, hop by hop, never by
//     net/http. No hop leads from https to http. Queries of signed URLs and passwords are in no error and in no log line.
//
// # Dangers
//
//   - A range is not verified by this package: a registry could answer any bytes for it. [Verifier] hashes what passes and
//     compares when all of it has passed; until then trust a range as far as its decoder's own checks go.
//   - A URL without a digest has an identity (Disk.Key) but nothing that could prove its bytes.
//   - A server that ignores Range is read through one long body, whose bytes are kept in an unlinked temporary file, because
//     asking again would fetch from the first byte again. That file can grow to the blob's size while the Blob is open.
//   - Everything a server or a layout says is hostile: lengths are bounded before they are believed, blob paths are built from a
//     validated digest only, and a layout folder is opened so that no symbolic link leads out of it.
package blobfetch
