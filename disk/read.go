package disk

import (
	"context"
	"runtime"

	"golang.org/x/sync/errgroup"
)

const (
	// unitBudget bounds the decoded compressed units that one Disk keeps.
	unitBudget = 16 << 20
	// readWindow is how much of a long read is planned at once. It bounds the plan, not the length
	// of a plain run.
	readWindow = 4 << 20
	// farApart is the distance in the image file beyond which two parts of one read are taken to be
	// two fetches, worth doing at the same time.
	farApart = 1 << 20
	// jobUnits is how many bytes of compressed units are decoded one after the other before another
	// core is asked.
	jobUnits = 256 << 10
	// maxPacked bounds the compressed bytes of several units that are read at once.
	maxPacked = 1 << 20
)

// ReadAt fills p with the bytes of the disk at off, or fails. It reads stored bytes only:
// neighbouring runs with one ReadAt of the image file, straight into p.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.checkRange("read", off, int64(len(p))); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	if d.layout == nil {
		return d.file.ReadAt(ctx, p, off)
	}
	for {
		r, err := d.layout.next(ctx, off, int64(len(p)))
		if err != nil {
			return err
		}
		if r.n == int64(len(p)) { // nearly every read ends here
			return d.readRun(ctx, p, off, r)
		}
		w := p[:min(len(p), max(readWindow, int(r.n)))]
		if err := d.readRuns(ctx, w, off, r); err != nil {
			return err
		}
		if p, off = p[len(w):], off+int64(len(w)); len(p) == 0 {
			return nil
		}
	}
}

// readRun fills p with the run r, which starts at off and is len(p) long.
func (d *Disk) readRun(ctx context.Context, p []byte, off int64, r run) error {
	switch {
	case r.kind != Data:
		clear(p)
		return nil
	case r.packed == 0:
		return d.file.ReadAt(ctx, p, r.pos)
	}
	b := d.units.lookup(r.unit / d.unitSize)
	if b == nil {
		if r.n == d.unitSize {
			return d.readUnits(ctx, p, []part{{run: r}})
		}
		var err error
		if b, err = d.loadUnit(ctx, r); err != nil {
			return err
		}
	}
	copy(p, b[off-r.unit:])
	return nil
}

// part is a run within one read.
type part struct {
	run
	at int64 // where it starts in the read's buffer
}

// readRuns fills p with several runs, of which first is the first.
func (d *Disk) readRuns(ctx context.Context, p []byte, off int64, first run) error {
	var space [16]part
	parts, err := d.plan(ctx, space[:0], int64(len(p)), off, first)
	if err != nil {
		return err
	}
	jobs := d.split(parts)
	if len(jobs) == 1 {
		return d.readParts(ctx, p, off, jobs[0])
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(4, runtime.GOMAXPROCS(0))) // four at least: they may be waiting for a network
	for _, job := range jobs {
		g.Go(func() error { return d.readParts(ctx, p, off, job) })
	}
	return g.Wait()
}

// plan appends the runs of the n bytes of disk at off to parts. Runs that follow on each other in
// the file become one.
func (d *Disk) plan(ctx context.Context, parts []part, n, off int64, r run) ([]part, error) {
	for at := int64(0); ; {
		last := len(parts) - 1
		if last >= 0 && r.kind == Data && r.packed == 0 && parts[last].kind == Data && parts[last].packed == 0 &&
			parts[last].pos+parts[last].n == r.pos {
			parts[last].n += r.n
		} else {
			parts = append(parts, part{run: r, at: at})
		}
		if at += r.n; at == n {
			return parts, nil
		}
		var err error
		if r, err = d.layout.next(ctx, off+at, n-at); err != nil {
			return nil, err
		}
	}
}

// split cuts parts into jobs that are worth doing at the same time. Most reads are one job.
func (d *Disk) split(parts []part) [][]part {
	var jobs [][]part
	start, end, packed := 0, int64(-1), int64(0) // of the job so far; end is in the image file
	for i, r := range parts {
		if r.kind != Data {
			continue
		}
		far := end >= 0 && (r.pos < end-farApart || r.pos > end+farApart)
		if r.packed > 0 {
			packed += d.unitSize
		}
		if far || packed > max(jobUnits, d.unitSize) {
			jobs = append(jobs, parts[start:i])
			start, packed = i, 0
			if r.packed > 0 {
				packed = d.unitSize
			}
		}
		end = r.fileEnd()
	}
	return append(jobs, parts[start:])
}

// readParts fills the parts' places in p, the buffer for the disk's bytes at off.
func (d *Disk) readParts(ctx context.Context, p []byte, off int64, parts []part) error {
	for len(parts) > 0 {
		r := parts[0]
		if n := d.neighbours(parts); n > 1 {
			if err := d.readUnits(ctx, p, parts[:n]); err != nil {
				return err
			}
			parts = parts[n:]
			continue
		}
		if err := d.readRun(ctx, p[r.at:r.at+r.n], off+r.at, r.run); err != nil {
			return err
		}
		parts = parts[1:]
	}
	return nil
}
