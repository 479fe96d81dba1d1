// Package voucher answers for the bytes of one blob: it proves, with the blob's digest, that the
// bytes handed out are the blob's.
//
// # The concept
//
// A digest is a hash over all bytes in order; a lazily read blob passes in any order. A Voucher
// sits between the decoders and the source. Decoders tell it of compressed bytes once these decoded
// well and before anything made of them is handed out or kept (Saw). Bytes at the hash's position,
// the tip, are hashed at once; bytes ahead of it are put into the Store, a cache file of the blob's
// own bytes, and hashed when the gap before them closes. A blob that is not compressed is itself
// the cache's file: its spans are taken in before they are kept (ReadSpan), and nothing is kept
// twice.
//
// The hash's state is kept at the end of each link of 256 KiB (chain.go). It serves three ends: a
// process that was killed goes on where the hash stood; bytes that are fetched a second time are
// compared with the first time, a link at a time; and processes that share a cache share the work.
//
// # The rules
//
//   - Every byte that was used is hashed, with the state on disk, or in the Store, before what it
//     decodes to is handed out. So the digest speaks of the bytes that were used, and of no others.
//   - Bytes are taken in under the lock of the chain, from the tip that is on the disk. So all
//     processes agree on each byte: one that was hashed or kept before is compared with the one
//     that comes.
//   - The tip counts the bytes ahead that the Store has. Only bytes that come back from it are
//     taken off: if one is lost, by damage or by another process, the account is not even in the
//     end.
//   - If a byte can be neither hashed nor kept (no room), or is lost before it is hashed, the chain
//     is lossy: the digest will not be compared before all was forgotten and fetched anew. Nothing
//     is called verified meanwhile.
//   - Bytes before the tip are compared with the chain whenever they are fetched again. Bytes that
//     were fetched before the hash passed them, and come after, are compared when they come.
//   - A chain that is damaged, gone, or begun anew by others ends the vouchers that have it open
//     (ErrForgotten).
//   - Nothing of the blob is kept in memory but a few links.
//
// # The locks
//
// The voucher's mutex is taken before the chain's lock, and both before those of the Store's Put,
// ReadKept, Present, Drop and Forget. Nothing is fetched under them: Store.ReadAt holds locks of
// its own when its source calls ReadSpan.
//
// # The dangers
//
// The rules hold for kill -9, not for a power failure, which may lose the last writes of the chain
// and keep later ones of the cache. The chain remembers the boot in which it was written: after an
// unclean end of another boot it counts as not known, unless it is verified.
package voucher
