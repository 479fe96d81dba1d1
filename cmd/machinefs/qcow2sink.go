package main

import (
	"context"
	"os"

	"github.com/machinefs/machinefs/disk"
	"golang.org/x/sys/unix"
)

// A qcow2Sink writes a qcow2 image. What it holds when it is broken off, its journal tells.
type qcow2Sink struct {
	image   *disk.Qcow2Writer
	journal *os.File
	path    string // for messages
	size    int64
	tail    []byte // bytes behind the last whole cluster that was written
}

const journalFile = "journal" // of a qcow2 image, in the folder of the copy

// openQcow2 begins the image, or goes on with it. again begins a new one in its place.
func (j *copyJob) openQcow2(ctx context.Context, again bool) (sink, error) {
	if j.journal != nil {
		j.journal.Close()
	}
	journal, err := os.OpenFile(j.partial.path(journalFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err == nil && again {
		err = journal.Truncate(0)
	}
	if err != nil {
		return nil, local(err)
	}
	j.journal = journal
	size := j.stack.disk.Size()
	w, err := disk.NewQcow2Writer(ctx, j.out, journal, size, disk.Qcow2Options{Zstd: j.o.compress})
	if err != nil {
		return nil, outputError(j.to.path, err)
	}
	return &qcow2Sink{image: w, journal: journal, path: j.to.path, size: size}, nil
}

func (q *qcow2Sink) has(off, n int64) bool { return off+n <= q.image.Next() }
func (q *qcow2Sink) inOrder() bool         { return true }

// write writes whole clusters, and keeps the rest until more of it comes.
func (q *qcow2Sink) write(ctx context.Context, p []byte, off int64) error {
	const cluster = disk.Qcow2Cluster
	skip := min(q.before(off), int64(len(p)))
	if p, off = p[skip:], off+skip; len(p) == 0 {
		return nil
	}
	if at := off % cluster; at > 0 { // the rest of a cluster
		if len(q.tail) == 0 {
			q.tail = make([]byte, at, cluster)
		}
		n := min(int64(len(p)), cluster-at)
		q.tail = append(q.tail[:at], p[:n]...)
		p, off = p[n:], off+n
		if len(q.tail) < cluster && off < q.size {
			return nil
		}
		if err := q.put(ctx, q.tail, off-int64(len(q.tail))); err != nil {
			return err
		}
		q.tail = q.tail[:0]
	}
	whole := int64(len(p)) / cluster * cluster
	if off+int64(len(p)) == q.size {
		whole = int64(len(p))
	}
	if whole > 0 {
		if err := q.put(ctx, p[:whole], off); err != nil {
			return err
		}
	}
	if rest := p[whole:]; len(rest) > 0 {
		q.tail = append(make([]byte, 0, cluster), rest...)
	}
	return nil
}

// before returns how many bytes from off on an earlier run has written.
func (q *qcow2Sink) before(off int64) int64 { return max(0, q.image.Next()-off) }

func (q *qcow2Sink) put(ctx context.Context, p []byte, off int64) error {
	return outputError(q.path, q.image.Write(ctx, p, off))
}

// zeros leaves them out, but for those of a cluster that other bytes are in.
func (q *qcow2Sink) zeros(ctx context.Context, off, n int64) error {
	const cluster = disk.Qcow2Cluster
	skip := min(q.before(off), n)
	off, n = off+skip, n-skip
	for n > 0 && (off%cluster > 0 || n < cluster) {
		m := min(n, cluster-off%cluster)
		if err := q.write(ctx, make([]byte, m), off); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	whole := n / cluster * cluster
	if off+n == q.size {
		whole = n
	}
	if whole > 0 {
		if err := q.image.Done(off + whole); err != nil {
			return outputError(q.path, err)
		}
	}
	if n > whole {
		return q.zeros(ctx, off+whole, n-whole)
	}
	return nil
}

// close completes the image.
func (q *qcow2Sink) close() error { return outputError(q.path, q.image.Close()) }
