package blobfetch

import (
	"context"
	"errors"
	"path/filepath"
)

// Open opens the blob of a Disk that Resolve returned; any other is an ErrReference. A local file
// or layout is opened and compared with its pin (ErrVerify); a remote blob costs no request before
// its first read.
func (c *Client) Open(_ context.Context, d Disk) (*Blob, error) {
	b, err := c.openPlace(d)
	if err != nil {
		return nil, wrap("open", d.label(), err)
	}
	b.name = d.label()
	return b, nil
}

// label names a disk's blob in messages.
func (d Disk) label() string {
	if d.Digest == "" || d.place.ref.Transport == Web {
		return d.place.ref.String()
	}
	ref := d.place.ref
	ref.Tag, ref.Digest = "", ""
	return "blob " + d.Digest + " of " + ref.String()
}

var errNowhere = errors.New("it came from no Resolve")

func (c *Client) openPlace(d Disk) (*Blob, error) {
	if d.Size < 0 || d.Size > maxBlob {
		return nil, failf(ErrNotImage, "", "its size is %d", d.Size)
	}
	switch ref := d.place.ref; ref.Transport {
	case Registry, Web:
		if c.cfg.Offline {
			n := &counters{}
			return &Blob{src: offline{}, key: d.Key, digest: d.Digest, size: d.Size, n: n}, nil
		}
		if ref.Transport == Web {
			return c.openWeb(d), nil
		}
		return c.openRegistry(d)
	case Layout, Archive:
		l, err := c.layout(ref)
		if err != nil {
			return nil, err
		}
		defer l.close()
		return openLayoutBlob(l, d)
	case File:
		return openPinnedFile(d)
	}
	return nil, failf(ErrReference, "", "%w", errNowhere)
}

// LocalPath returns the path of the file that the blob is, if it is one of this machine.
func (d Disk) LocalPath() (string, bool) {
	switch ref := d.place.ref; ref.Transport {
	case File, Archive:
		return ref.Path, true
	case Layout:
		if h, err := parseDigest(d.Digest); err == nil {
			return filepath.Join(ref.Path, filepath.FromSlash(blobName(h))), true
		}
	}
	return "", false
}

func openPinnedFile(d Disk) (*Blob, error) {
	f, info, err := openFile(d.place.ref.Path)
	if err != nil {
		return nil, err
	}
	if fileKey(info) != d.place.key {
		f.Close()
		return nil, failf(ErrVerify, "resolve it anew", "the file has changed since it was resolved")
	}
	n := &counters{}
	return &Blob{src: &local{f: f, info: info, n: n}, key: d.Key, digest: d.Digest, size: d.Size, n: n}, nil
}

// offline is the source of remote blobs under Config.Offline. Every read fails: the caller's cache
// has answered the ones it can.
type offline struct{}

func (offline) readAt(_ context.Context, p []byte, off int64) error {
	return failf(ErrOffline, "run it without --offline", "bytes %d to %d are not kept here", off, off+int64(len(p)))
}

func (offline) close() error { return nil }
