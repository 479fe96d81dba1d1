package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Storage is where a qcow2 image, or its journal, is written to, and read back from when it is gone
// on with. *os.File is one.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
}

// A Qcow2Writer makes a qcow2 image, version 3, with clusters of 64 KiB, of a disk whose bytes come in
// rising order. Clusters of zeros are left out. The image is one only after Close: the header comes
// last. A journal beside it tells what it holds, so that one that was broken off, by a power failure
// too, can be gone on with.
//
// It is not safe for parallel use.
type Qcow2Writer struct {
	f       Storage
	journal qcow2Journal
	size    int64
	encoder *zstd.Encoder // nil: clusters are stored as they are

	next int64             // disk bytes before it are in the image, or zeros
	end  int64             // of the image's data so far
	l2   map[int64][]int64 // the L2 tables that have entries, by number
	refs []uint16          // by host cluster
}

// Qcow2Cluster is the size of the clusters that a Qcow2Writer writes, in bytes.
const Qcow2Cluster = 64 << 10

const (
	outBits    = 16
	outCluster = Qcow2Cluster
	outEntries = outCluster / 8 // of a table in one cluster
	outHeader  = 112            // bytes, with compression_type and its padding

	qcow2Copied = math.MinInt64 // bit 63: the refcount is exactly one

	// A compressed cluster's entry has its offset in the low bits and sectors - 1 above: bit
	// 62 - (cluster_bits - 8) is the first of these.
	outSectorShift = 62 - (outBits - 8)
)

// Qcow2Options says how an image is written.
type Qcow2Options struct {
	Zstd bool // clusters are compressed, where that makes them smaller; qemu 5.1 and later read that
}

// NewQcow2Writer begins an image of a disk of size bytes in f, or goes on with the one that journal
// tells of, as far as its bytes in f have the checks noted there.
func NewQcow2Writer(ctx context.Context, f, journal Storage, size int64, o Qcow2Options) (*Qcow2Writer, error) {
	const most = maxRoot / 8 * outEntries * outCluster // what the L1 table can hold
	if size <= 0 || size > most {
		return nil, fmt.Errorf("write qcow2 image: a disk of %d bytes, want at most %d", size, int64(most))
	}
	w := &Qcow2Writer{f: f, size: size, end: outCluster, l2: map[int64][]int64{}}
	if o.Zstd {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, err
		}
		w.encoder = e
	}
	if _, err := f.WriteAt(zeroCluster[:], 0); err != nil { // an old header would not be this image's
		return nil, err
	}
	w.journal = qcow2Journal{f: journal}
	return w, w.resume(ctx)
}

// Next returns the disk offset up to which the image is made: whoever goes on begins there.
func (w *Qcow2Writer) Next() int64 { return w.next }

// Write writes the bytes of the disk at off, which is a multiple of 64 KiB and not before Next; so
// is the end of p, unless it is the disk's. What lies between Next and off reads as zeros.
func (w *Qcow2Writer) Write(ctx context.Context, p []byte, off int64) error {
	end := off + int64(len(p))
	if off < w.next || off%outCluster != 0 || end > w.size || end%outCluster != 0 && end != w.size {
		return fmt.Errorf("write qcow2 image: %d bytes at %d, want whole clusters from %d to %d", len(p), off, w.next, w.size)
	}
	if tail := len(p) % outCluster; tail > 0 { // the disk's last cluster
		p = append(bytes.Clone(p), make([]byte, outCluster-tail)...)
	}
	var err error
	if w.encoder != nil {
		err = w.compress(ctx, p, off)
	} else {
		err = w.store(p, off)
	}
	if err != nil {
		return err
	}
	return w.Done(min(end, w.size))
}

// Done notes that the bytes before off are in the image, or are zeros.
func (w *Qcow2Writer) Done(off int64) error {
	if off < w.next || off > w.size {
		return fmt.Errorf("write qcow2 image: done to %d, want %d to %d", off, w.next, w.size)
	}
	w.next = off
	return w.journal.append(qcow2Record{disk: off})
}

// store writes runs of clusters that are not zeros as they are.
func (w *Qcow2Writer) store(p []byte, off int64) error {
	for len(p) > 0 {
		n := 0
		for n < min(len(p), maxStored) && !allZero(p[n:n+outCluster]) {
			n += outCluster
		}
		if n > 0 {
			if err := w.put(p[:n], off, false); err != nil {
				return err
			}
		}
		for n < len(p) && allZero(p[n:n+outCluster]) {
			n += outCluster
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// compress writes clusters compressed: all cores make them, one after the other is written.
func (w *Qcow2Writer) compress(ctx context.Context, p []byte, off int64) error {
	packed := make([][]byte, len(p)/outCluster)
	g, _ := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range packed {
		g.Go(func() error {
			if c := p[i*outCluster : (i+1)*outCluster]; !allZero(c) {
				packed[i] = w.encoder.EncodeAll(c, make([]byte, 0, outCluster))
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, c := range packed {
		at, err := off+int64(i)*outCluster, error(nil)
		switch plain := p[i*outCluster : (i+1)*outCluster]; {
		case c == nil:
		case len(c) < outCluster-sector:
			err = w.put(c, at, true)
		default:
			err = w.put(plain, at, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put appends a compressed cluster, or some that are stored as they are, and notes it.
func (w *Qcow2Writer) put(b []byte, off int64, packed bool) error {
	r := qcow2Record{disk: off, host: w.place(packed), length: uint32(len(b)), packed: packed, sum: crc32.Checksum(b, castagnoli)}
	if _, err := w.f.WriteAt(b, r.host); err != nil {
		return err
	}
	if err := w.journal.append(r); err != nil {
		return err
	}
	w.enter(r)
	return nil
}

// place returns where the next bytes go: compressed ones follow each other, others are aligned.
func (w *Qcow2Writer) place(packed bool) int64 {
	if packed {
		return w.end
	}
	return (w.end + outCluster - 1) &^ (outCluster - 1)
}

// enter takes a record into the tables.
func (w *Qcow2Writer) enter(r qcow2Record) {
	if r.packed {
		sectors := (r.host+int64(r.length)-1)/sector - r.host/sector
		w.set(r.disk, qcow2Compressed|sectors<<outSectorShift|r.host)
	} else {
		for at := int64(0); at < int64(r.length); at += outCluster {
			w.set(r.disk+at, qcow2Copied|(r.host+at))
		}
	}
	w.end = r.host + int64(r.length)
	// The sectors that an entry names are referred to as a whole.
	last := (w.end + sector - 1) / sector * sector
	for c := r.host / outCluster; c <= (last-1)/outCluster; c++ {
		for int64(len(w.refs)) <= c {
			w.refs = append(w.refs, 0)
		}
		w.refs[c]++
	}
	length := int64(r.length)
	if r.packed {
		length = outCluster
	}
	w.next = min(r.disk+length, w.size)
}

func (w *Qcow2Writer) set(disk, entry int64) {
	c := disk / outCluster
	t := w.l2[c/outEntries]
	if t == nil {
		t = make([]int64, outEntries)
		w.l2[c/outEntries] = t
	}
	t[c%outEntries] = entry
}

// Close writes the tables and then the header.
func (w *Qcow2Writer) Close() error {
	at := (w.end + outCluster - 1) &^ (outCluster - 1)
	write := func(table []int64) (int64, error) {
		b := make([]byte, 0, outCluster)
		for _, e := range table {
			b = binary.BigEndian.AppendUint64(b, uint64(e))
		}
		b = append(b, make([]byte, -len(b)&(outCluster-1))...)
		off := at
		at += int64(len(b))
		_, err := w.f.WriteAt(b, off)
		return off, err
	}
	l1 := make([]int64, (w.size+outEntries*outCluster-1)/(outEntries*outCluster))
	for i := range l1 {
		if t := w.l2[int64(i)]; t != nil {
			off, err := write(t)
			if err != nil {
				return err
			}
			l1[i] = qcow2Copied | off
		}
	}
	l1Off, err := write(l1)
	if err != nil {
		return err
	}
	refOff, refClusters, err := w.writeRefs(at)
	if err != nil {
		return err
	}
	h := w.header(l1Off, len(l1), refOff, refClusters)
	if err := w.f.Truncate(w.fileEnd(refOff, refClusters)); err != nil {
		return err
	}
	_, err = w.f.WriteAt(h, 0)
	return err
}

// writeRefs writes the refcount blocks and the table of them, which count themselves too.
func (w *Qcow2Writer) writeRefs(at int64) (off int64, clusters int64, err error) {
	const perBlock = outCluster / 2 // refcounts of 16 bits
	used := at / outCluster
	blocks, tables := int64(0), int64(0)
	for {
		b := (used + blocks + tables + perBlock - 1) / perBlock
		t := (b + outEntries - 1) / outEntries
		if b == blocks && t == tables {
			break
		}
		blocks, tables = b, t
	}
	total := used + blocks + tables
	refs := make([]byte, blocks*outCluster)
	for c := range total {
		n := uint16(1) // header, tables
		if c > 0 && c < int64(len(w.refs)) {
			n = w.refs[c]
		}
		binary.BigEndian.PutUint16(refs[2*c:], n)
	}
	if _, err := w.f.WriteAt(refs, at); err != nil {
		return 0, 0, err
	}
	table := make([]byte, tables*outCluster)
	for i := range blocks {
		binary.BigEndian.PutUint64(table[8*i:], uint64(at+i*outCluster))
	}
	off = at + blocks*outCluster
	_, err = w.f.WriteAt(table, off)
	return off, tables, err
}

func (w *Qcow2Writer) fileEnd(refOff, refClusters int64) int64 {
	return refOff + refClusters*outCluster
}

// header returns the first cluster.
func (w *Qcow2Writer) header(l1Off int64, l1Size int, refOff, refClusters int64) []byte {
	h := make([]byte, outCluster)
	be := binary.BigEndian
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], outBits)
	be.PutUint64(h[24:], uint64(w.size))
	be.PutUint32(h[36:], uint32(l1Size))
	be.PutUint64(h[40:], uint64(l1Off))
	be.PutUint64(h[48:], uint64(refOff))
	be.PutUint32(h[56:], uint32(refClusters))
	be.PutUint32(h[96:], 4) // refcount_order: 16 bits
	be.PutUint32(h[100:], outHeader)
	if w.encoder != nil {
		be.PutUint64(h[72:], qcow2Compression)
		h[104] = qcow2Zstd
	}
	return h
}

var zeroCluster [outCluster]byte

func allZero(p []byte) bool { return bytes.Equal(p, zeroCluster[:len(p)]) }
