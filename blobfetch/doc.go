// Package blobfetch turns a reference into an image, an image into its disks, and a disk's blob
// into ranges of immutable bytes.
//
// # Concept
//
// A reference (docker://host/repo:tag, oci-dir://PATH, oci-archive:PATH, an http(s) URL, a path) is
// resolved once, by [Client.Resolve], to an [Image]. An image is pinned: by a digest for registries
// and layouts, strong ETag or Last-Modified with the size for URLs, device, inode, size and mtime
// for local files. An [Image] lists its [Disk]s; [Image.Choose] picks one of them, and
// [Client.Open] gives a [Blob] whose ReadAt is the only way bytes leave this package.
//
// # Rules
//
//   - ReadAt fills all of p or fails. Parallel calls are allowed. The server's
//     Content-Range says where bytes belong, and must be the range that was asked for.
//   - A fault that may pass (connection lost, stall, trickle, 429, 5xx) is retried with back-off and
//     jitter until Config.StallTimeout has gone by without one new byte. Refusals (401, 403, 404,
//     another certificate, a web page) may pass too, where the host or the blob was good before;
//     else they fail at once. A first look-up is given seconds. Only single ranges with both ends
//     are sent; many servers refuse the rest.
//   - Every error wraps one of the kinds in errors.go (see [Kind]); a caller branches on those,
//     never on text.
//   - Credentials go to the host they belong to and nowhere else: redirects are followed here, hop
//     by hop, never by net/http. No hop leads from https to http. Queries of signed URLs and
//     passwords are in no error and in no log line.
//
// # Dangers
//
//   - A range is not verified by this package: a registry could answer any bytes for it. Until a
//     caller has hashed all of a blob ([NewHash]) and compared, a range deserves as much trust as
//     its decoder's own checks.
//   - A URL without a digest has an identity (Disk.Key) but no digest to verify its bytes by.
//   - A server that ignores Range is read through one long body, whose bytes are kept in a
//     [Scratch], because asking again would fetch from the first byte again. It can grow to the
//     blob's size while the Blob is open.
//   - Answers and layouts are hostile: lengths are bounded before they are believed, blob paths are
//     built from a validated digest only, and a layout folder is opened so that no symbolic link
//     leads out of it.
package blobfetch
