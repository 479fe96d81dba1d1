// Package zstd enters zstd streams in the middle.
//
// # Concept
//
// A zstd frame (RFC 8878) is a chain of blocks of at most 128 KiB of output. A block inherits
// little from those before it, and that can be written down: the last Huffman tree, the last three
// FSE tables, three repeat offsets, and the window, the output that matches may refer to. A walk
// decodes a stream once, in order, and notes for each span the block boundary before it with this
// inheritance (codec.Point). Decode starts there. That State and window together are, field by
// field, a zstd dictionary (RFC 8878 §5): Dictionary writes it, which proves with other people's
// decoders that a Point holds all that is needed.
//
// Blocks are taken apart (literals, sequences) and executed (copied together) by this package; only
// Huffman coding is klauspost/compress's huff0. A general decoder has to be told of a window by way
// of a dictionary, which costs a copy of it for every span and the slow path for every match, and
// it does not tell a walk which bytes were referred to. Whole frames that begin and end within a
// span need none of that and are left to klauspost/compress.
//
// A walk is a pipeline: one goroutine reads, finds blocks and takes them apart; Next executes them
// straight into the caller's buffer, with the history in front of it as the window. Where a stream
// consists of small frames, whole frames are decoded side by side on all processors.
//
// # Rules
//
//   - A Point lies at a block boundary; its Lead is less than one block, 128 KiB. A span that
//     begins where a frame begins, or in its first block, has a natural start: no State and no
//     window.
//   - Spans do not care for frames: one may hold the end of a frame, whole frames, skippable and
//     empty ones, and the start of another.
//   - A frame's checksum and content size are verified when a walk passes its end, also in a walk
//     that was continued at a Frontier, and by Decode if it was given the frame as a whole. A span
//     out of the middle cannot be verified by anything that zstd has: the index's SHA-256 does
//     that.
//   - Windows above 128 MiB (zstd --long=27) are refused. So are frames that need a dictionary of
//     their own.
//
// # State, version 1
//
// Numbers are unsigned LEB128 (as in encoding/binary's Uvarint) unless a width is given; widths are
// little-endian.
//
//	1 byte   version: 1
//	1 byte   flags: bit 0 the frame ends in a checksum; bit 1 its content size is known; bit 2 the
//	         checksum's state is here; others 0
//	number   Window_Size of the frame, at least 1024 and at most 2^27
//	number   how many bytes the Point's In lies behind the first byte of the frame's magic
//	number   bytes of the frame's output that lie before the place where decoding starts ("made")
//	number   content size of the frame; only if bit 1 is set
//	4 × 8    the accumulators v1 to v4 of XXH64 over these made bytes; only if bit 2 is set
//	bytes    the last made mod 32 of these bytes; only if bit 2 is set
//	3 × number  repeat offsets, the most recent first; not 0
//	number   length of the Huffman tree description, 0 if there was none in this frame yet; then
//	bytes    the description as it was in the block that sent it last (RFC 8878 §4.2.1)
//	3 ×      tables for literals lengths, offsets and match lengths, in this order:
//	  1 byte   how it was sent last: 0 not yet in this frame, 1 Predefined_Mode, 2 RLE_Mode,
//	           3 FSE_Compressed_Mode
//	  1 byte   the symbol; only for 2
//	  number, bytes  length of the table description and the description as it was sent
//	                 (RFC 8878 §4.1.1); only for 3
//
// Nothing follows. The checksum's state is only in the Points that Frontier returns, not in those
// of spans.
//
// # Dangers
//
// All of it, a State and a window from an index too, is taken for hostile: lengths are checked
// before they are used, and memory is bounded: by the caller's buffers and about 1 MiB for a
// Decode; by about 10 MiB for a walk through a large frame, and 60 MiB for one through small ones
// (32 MiB of frames in flight, one of 16 MiB being read). A wrong State or window yields wrong
// bytes or an error, never a panic.
package zstd

const format = "zstd"
