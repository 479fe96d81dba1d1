// Package xz decodes .xz files: their indexes, their blocks, and spans from the middle of a block.
//
// Sources: the .xz file format 1.2.1 (https://tukaani.org/xz/xz-file-format.txt) for streams,
// indexes and block headers; for LZMA2, which has no specification, its decoders in xz-utils, XZ
// Embedded and the LZMA SDK.
//
// # Blocks
//
// An xz file is one or more streams, each with an index of its blocks at its end. A block decodes
// alone. ReadIndex finds them all from the end of the file with one or two requests, so that a file
// of several blocks (xz -T, pixz) is random access as it is.
//
// # Spans
//
// A block can be large: all of the file with one thread of xz, 192 MiB with xz -9 -T. A Walker
// decodes a block in order, in spans of the caller's choice, and records for each a Point from
// which Decode decodes that span alone. A Point can be at any decoded byte, in the middle of an
// LZMA2 chunk or of a match; Lead is always 0, and In is the next byte that the range coder wants,
// counted from the start of the block. The block's own start is the zero Point: there the block
// header is read, and no State or window is needed.
//
// The dictionary is the caller's buffer: the span itself, and the history before it. Nothing is
// allocated for what a header demands, and a block that demands more than MaxWindow is refused.
//
// Only blocks with LZMA2 alone are decoded. Other filters (x86 BCJ, delta) change the bytes after
// the dictionary has seen them, so that the output is no dictionary; they are refused by name.
//
// # Checks
//
// CRC32, CRC64 and SHA-256 of a block are verified when its end is reached: by a walk from its
// start or continued in its middle, by Decode of the whole block, and by Decode of its last span.
// Other spans carry no check of their own.
//
// # State
//
// A State is a string of bytes; numbers are little endian and unsigned unless something else is
// said.
//
//	at  size
//	 0   1    version, 1
//	 1   1    the next part of the input: 0 a chunk's control byte, 1 the rest of an uncompressed
//	          chunk, 2 the rest of an LZMA chunk, 3 nothing, the block is over; plus 128 if the next
//	          LZMA chunk must bring properties (control byte of 0xc0 or more)
//	 2   1    the kind of check, as in the stream's flags
//	 3   1    the dictionary size, as in the block header's LZMA2 properties
//	 4   1    (pb*5 + lp)*9 + lc; 0 if there were no properties so far
//	 5   1    LZMA's state, 0 to 11
//	 6   2    bytes left of a match that the end of the span before has cut, at distance rep0
//	 8   8    decoded bytes of the block so far
//	16   8    the same since the last dictionary reset; their low bits are LZMA's position
//	24  16    rep0 to rep3, the last four distances less one, 4 bytes each
//	40   4    decoded bytes left of the chunk
//	44   4    compressed bytes left of the LZMA chunk
//	48   4    the range coder's range, not yet brought back above 2^24 where it is below
//	52   4    the range coder's code
//	56   n    the check in progress. CRC32: the CRC of the output so far, 4 bytes. CRC64:
//	          the same, 8 bytes. SHA-256: the eight words after the last whole 64 bytes of output,
//	          big endian, then the bytes after those. None or a reserved kind: nothing
//	      m   the probabilities, up to the end of the State; nothing if the next LZMA chunk must
//	          bring properties, or after the block
//
// Fields that do not matter are 0: the fields from 44 on outside an LZMA chunk, the one at 40
// between chunks.
//
// The probabilities are a string of bits, the most significant bit of each byte first, zeros
// filling the last byte. A probability of 1024, the initial value, is a 0 bit; any other is a 1 bit
// and its 11 bits, the highest first. Their order, with the names of XZ Embedded, and with P = 2^pb
// positions:
//
//	is_match[12][P], is_rep[12], is_rep0[12], is_rep1[12], is_rep2[12], is_rep0_long[12][P],
//	dist_slot[4][1..63], dist_special[0..113], dist_align[1..15],
//	for match_len_dec and then rep_len_dec:
//	  choice, choice2, low[P][1..7], mid[P][1..7], high[1..255],
//	literal[2^(lc+lp)][1..0x2ff]
//
// Element 0 of a bit tree is not used and left out. (In literal, neither is element 0x100 or 0x200:
// they stay 1024.)
//
// # Dangers
//
// Bytes, States and windows are hostile: the sizes in them are compared with the Block and with one
// another. A wrong State or window gives wrong bytes or an error, nothing worse. A State has no
// checksum: keep a hash of each span with it.
package xz

//go:generate go run gen.go
