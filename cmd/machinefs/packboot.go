package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/machinefs/machinefs/cmd/machinefs/internal/bootpack"
	"github.com/machinefs/machinefs/cmd/machinefs/internal/trace"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
)

// recordedTrace is the value of --boot for the trace that is kept on this machine.
const recordedTrace = "recorded"

// maxPack bounds what a boot pack holds, in bytes of the image file.
const maxPack = 2 << 30

// tableBytes at each end of a disk hold its partition table: 34 sectors of 512 bytes (UEFI 2.10
// section 5.3), and a few of 4096.
const tableBytes = 34 * 4096 / 2

// packBoot makes the boot pack of a trace: first what opening the image reads, then what the trace
// says.
func (s *stack) packBoot(ctx context.Context, t *trace.Trace, digest string) ([]seekable.Section, error) {
	switch {
	case s.file == s.blobFile && len(s.layers) > 0:
		return nil, &seekable.FormatError{Format: s.format(), Msg: "no boot pack: the image file lies uncompressed within the blob"}
	case t.Digest != "" && t.Digest != digest:
		return nil, &usageError{fmt.Errorf("the trace is of %s: record one of this image, or remove the trace's line \"# digest\" to use it all the same", t.Digest)}
	case t.Size != s.disk.Size():
		return nil, &usageError{fmt.Errorf("the trace is of a disk of %d bytes, this one has %d", t.Size, s.disk.Size())}
	}
	noted := &notedFile{File: s.file}
	d, err := disk.Open(ctx, noted)
	if err != nil {
		return nil, err
	}
	ends := min(tableBytes, d.Size())
	p := make([]byte, ends)
	if err := errors.Join(d.ReadAt(ctx, p, 0), d.ReadAt(ctx, p, d.Size()-ends)); err != nil {
		return nil, err
	}
	for _, x := range t.Extents { // the tables that say where they are
		for _, err := range d.Extents(ctx, x.Off, x.Len) {
			if err != nil {
				return nil, err
			}
		}
	}
	ranges, err := s.fileRanges(ctx, t)
	if err != nil {
		return nil, err
	}
	b, err := bootpack.NewBuilder(s.file.Size(), s.disk.Size(), s.disk.Format())
	if err != nil {
		return nil, err
	}
	var seen trace.Set
	total := int64(0)
	add := func(x trace.Extent) (err error) {
		seen.Add(x.Off, x.Len, func(part trace.Extent) {
			for part.Len > 0 && err == nil {
				p := make([]byte, min(part.Len, bootpack.MaxPiece))
				if err = s.file.ReadAt(ctx, p, part.Off); err == nil {
					b.Add(part.Off, p)
				}
				part.Off, part.Len = part.Off+int64(len(p)), part.Len-int64(len(p))
				total += int64(len(p))
			}
		})
		if err == nil && total > maxPack {
			err = &usageError{fmt.Errorf("the trace reads more than %s of the image", human(maxPack))}
		}
		return err
	}
	for i, list := range [][]trace.Extent{noted.pages(), ranges} {
		for _, x := range list {
			if err := add(x); err != nil {
				return nil, err
			}
		}
		if i == 0 {
			b.EndMeta()
		}
	}
	b.Flush()
	return []seekable.Section{
		{Name: bootpack.SectionTable, Data: b.Append(nil), Sum: true},
		{Name: bootpack.SectionData, Data: b.Data},
	}, nil
}

// A notedFile notes which parts of an image file are read.
type notedFile struct {
	disk.File
	mu   sync.Mutex
	list []trace.Extent
}

// ReadAt reads the file.
func (n *notedFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	n.mu.Lock()
	n.list = append(n.list, trace.Extent{Off: off, Len: int64(len(p))})
	n.mu.Unlock()
	return n.File.ReadAt(ctx, p, off)
}

// pages returns what was read in whole pages, as the cache keeps them.
func (n *notedFile) pages() (list []trace.Extent) {
	for _, x := range n.list {
		off := x.Off / trace.Page * trace.Page
		end := min((x.End()+trace.Page-1)/trace.Page*trace.Page, n.Size())
		list = append(list, trace.Extent{Off: off, Len: end - off})
	}
	return list
}
