package xz

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

// Check is the kind of check that a stream keeps of each of its blocks, the number in the stream's
// flags (xz-file-format 2.1.1.2).
type Check byte

const (
	CheckNone   Check = 0
	CheckCRC32  Check = 1
	CheckCRC64  Check = 4
	CheckSHA256 Check = 10
)

// Size returns the length of the check in bytes, also of those that are reserved and mean nothing
// yet.
func (c Check) Size() int {
	if c == CheckNone {
		return 0
	}
	return 4 << ((c&15 - 1) / 3)
}

// Verified says whether this package verifies the check. It passes over CheckNone and the reserved
// kinds.
func (c Check) Verified() bool { return c == CheckCRC32 || c == CheckCRC64 || c == CheckSHA256 }

func (c Check) String() string {
	switch c {
	case CheckNone:
		return "none"
	case CheckCRC32:
		return "CRC32"
	case CheckCRC64:
		return "CRC64"
	case CheckSHA256:
		return "SHA-256"
	}
	return fmt.Sprintf("unknown check %d", byte(c))
}

var crc64Table = crc64.MakeTable(crc64.ECMA)

// A checksum is the check of the block's output so far.
type checksum struct {
	kind Check // CheckNone: nothing is computed
	crc  uint64
	sha  hash.Hash
}

// start begins a check of a kind. The SHA-256 is kept for later blocks: each would allocate one.
func (s *checksum) start(kind Check) {
	*s = checksum{sha: s.sha}
	if !kind.Verified() {
		return
	}
	s.kind = kind
	if kind == CheckSHA256 {
		if s.sha == nil {
			s.sha = sha256.New()
		}
		s.sha.Reset()
	}
}

func (s *checksum) write(p []byte) {
	switch s.kind {
	case CheckCRC32:
		s.crc = uint64(crc32.Update(uint32(s.crc), crc32.IEEETable, p))
	case CheckCRC64:
		s.crc = crc64.Update(s.crc, crc64Table, p)
	case CheckSHA256:
		s.sha.Write(p)
	}
}

func (s *checksum) value() []byte {
	switch s.kind {
	case CheckCRC32:
		return binary.LittleEndian.AppendUint32(nil, uint32(s.crc))
	case CheckCRC64:
		return binary.LittleEndian.AppendUint64(nil, s.crc)
	case CheckSHA256:
		return s.sha.Sum(nil)
	}
	return nil
}

// verify compares the check with the one stored behind the block.
func (s *checksum) verify(stored []byte, blk Block) error {
	if got := s.value(); s.kind != CheckNone && !bytes.Equal(got, stored) {
		g, w := fmt.Sprintf("%x", got), fmt.Sprintf("%x", stored)
		return &codec.ChecksumError{Format: "xz", Kind: s.kind.String(), Off: blk.In, Got: g, Want: w}
	}
	return nil
}

// Go's own record of a SHA-256 in progress: "sha\x03", eight words, the 64 bytes of the unfinished
// block, the length; big endian.
const (
	goSHAMagic = "sha\x03"
	goSHASize  = 4 + 32 + 64 + 8
)

// appendState appends the check in progress: nothing for CheckNone, 4 bytes for CRC32, 8 for CRC64;
// for SHA-256 the eight words, big endian, and the bytes of the unfinished 64-byte block, whose
// number is the block's decoded length modulo 64.
func (s *checksum) appendState(b []byte, length int64) []byte {
	if s.kind != CheckSHA256 {
		return append(b, s.value()...)
	}
	m, err := s.sha.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil || len(m) != goSHASize || string(m[:4]) != goSHAMagic {
		// Go does not promise the form. A release that changes it fails the tests.
		panic("xz: crypto/sha256 keeps its state in a form that is not known")
	}
	return append(b, m[4:4+32+length&63]...)
}

// restore takes the check in progress from b, after length bytes of output, and returns the rest of
// b.
func (s *checksum) restore(kind Check, b []byte, length int64) (rest []byte, ok bool) {
	s.start(kind)
	n := s.stateSize(length)
	if len(b) < n {
		return nil, false
	}
	rest, b = b[n:], b[:n]
	switch s.kind {
	case CheckCRC32:
		s.crc = uint64(binary.LittleEndian.Uint32(b))
	case CheckCRC64:
		s.crc = binary.LittleEndian.Uint64(b)
	case CheckSHA256:
		m := make([]byte, goSHASize)
		copy(m, goSHAMagic)
		copy(m[4:], b)
		binary.BigEndian.PutUint64(m[goSHASize-8:], uint64(length))
		if err := s.sha.(encoding.BinaryUnmarshaler).UnmarshalBinary(m); err != nil {
			return nil, false
		}
	}
	return rest, true
}

// stateSize returns the length of the unfinished check in a State, after length bytes of output.
func (s *checksum) stateSize(length int64) int {
	switch s.kind {
	case CheckCRC32:
		return 4
	case CheckCRC64:
		return 8
	case CheckSHA256:
		return 32 + int(length&63)
	}
	return 0
}
