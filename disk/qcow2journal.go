package disk

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// A qcow2Journal lists what an unfinished image holds, in the order of the disk, in records of 32
// bytes, little-endian:
//
//	 0  uint64  disk offset
//	 8  uint64  offset in the image
//	16  uint32  stored bytes; 0: all before the disk offset is in the image, or zeros
//	20  uint32  1: one compressed cluster
//	24  uint32  CRC32C of the stored bytes
//	28  uint32  CRC32C of the 28 bytes before
type qcow2Journal struct {
	f   Storage
	end int64
}

const qcow2RecordBytes = 32

// maxStored bounds the bytes of a record: more than the largest piece that is written at once.
const maxStored = 64 << 20

type qcow2Record struct {
	disk, host int64
	length     uint32
	packed     bool
	sum        uint32
}

func (j *qcow2Journal) append(r qcow2Record) error {
	_, err := j.f.WriteAt(r.marshal(), j.end)
	j.end += qcow2RecordBytes
	return err
}

func (r qcow2Record) marshal() []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(nil, uint64(r.disk))
	b = le.AppendUint64(b, uint64(r.host))
	b = le.AppendUint32(b, r.length)
	packed := uint32(0)
	if r.packed {
		packed = 1
	}
	b = le.AppendUint32(b, packed)
	b = le.AppendUint32(b, r.sum)
	return le.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// parseQcow2Record parses a record; false if it is damaged.
func parseQcow2Record(b []byte) (r qcow2Record, ok bool) {
	le := binary.LittleEndian
	if len(b) != qcow2RecordBytes || crc32.Checksum(b[:28], castagnoli) != le.Uint32(b[28:]) || le.Uint32(b[20:]) > 1 {
		return r, false
	}
	return qcow2Record{
		disk: int64(le.Uint64(b)), host: int64(le.Uint64(b[8:])), length: le.Uint32(b[16:]),
		packed: le.Uint32(b[20:]) == 1, sum: le.Uint32(b[24:]),
	}, true
}

// resume takes over what the journal tells, up to the first record that is damaged, does not follow
// on the one before, or whose bytes are not in the image.
func (w *Qcow2Writer) resume(ctx context.Context) error {
	var b [qcow2RecordBytes]byte
	var buf []byte
	for ctx.Err() == nil {
		if n, _ := w.journal.f.ReadAt(b[:], w.journal.end); n < len(b) {
			break
		}
		r, ok := parseQcow2Record(b[:])
		if !ok || !w.follows(r) {
			break
		}
		if r.length > 0 {
			if cap(buf) < int(r.length) {
				buf = make([]byte, r.length)
			}
			p := buf[:r.length]
			if n, err := w.f.ReadAt(p, r.host); n < len(p) || err != nil && err != io.EOF || crc32.Checksum(p, castagnoli) != r.sum {
				break
			}
			w.enter(r)
		} else {
			w.next = r.disk
		}
		w.journal.end += qcow2RecordBytes
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.journal.f.Truncate(w.journal.end)
}

// follows reports whether a record is one that this writer would write next.
func (w *Qcow2Writer) follows(r qcow2Record) bool {
	if r.disk < w.next || r.disk > w.size || r.disk%outCluster != 0 && r.disk != w.size {
		return false
	}
	if r.length == 0 {
		return true
	}
	if r.disk >= w.size || r.host != w.place(r.packed) || r.packed && w.encoder == nil {
		return false
	}
	if r.packed {
		return r.length < outCluster
	}
	last := (w.size + outCluster - 1) &^ (outCluster - 1)
	return r.length <= maxStored && r.length%outCluster == 0 && r.disk+int64(r.length) <= last
}
