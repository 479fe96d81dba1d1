package blobfetch

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// store gives an image's documents by digest, verified.
type store interface {
	document(ctx context.Context, d v1.Descriptor) ([]byte, error)
}

const (
	maxDepth    = 3  // an index in an index in an index
	maxVariants = 64 // manifests read by ResolveAll
)

// Resolve pins a reference and reads the manifests that sel leaves. Faults of the network that may
// pass are retried for 20 s at most. Under Config.Offline only kept answers are used; without one
// it is an ErrOffline.
func (c *Client) Resolve(ctx context.Context, reference string, sel Select) (*Image, error) {
	return c.resolve(ctx, reference, sel, manner{})
}

// ResolveAll is Resolve for all platforms and disk types: at most 64 manifests are read.
func (c *Client) ResolveAll(ctx context.Context, reference string) (*Image, error) {
	return c.resolve(ctx, reference, Select{}, manner{all: true})
}

// Find is Resolve for a name that may well not exist, such as an index's: it is asked for once,
// without retries.
func (c *Client) Find(ctx context.Context, reference string, sel Select) (*Image, error) {
	return c.resolve(ctx, reference, sel, manner{once: true})
}

// A manner is how a reference is resolved.
type manner struct {
	all  bool // every variant is read
	once bool // every request is made once
}

func (c *Client) resolve(ctx context.Context, reference string, sel Select, m manner) (*Image, error) {
	ref, err := ParseReference(reference)
	if err != nil {
		return nil, err
	}
	if ref.Default {
		if ref, err = c.defaultImage(ctx); err != nil {
			return nil, err
		}
	}
	if ref.Path != "" {
		if ref.Path, err = filepath.Abs(ref.Path); err != nil {
			return nil, wrap("resolve", ref.String(), localFault(err))
		}
	}
	im := &Image{Reference: ref.String()}
	switch ref.Transport {
	case Registry:
		err = c.resolveRegistry(ctx, im, ref, sel, m)
	case Web:
		err = c.resolveWeb(ctx, im, ref, m.once)
	case File:
		err = c.resolveFile(ctx, im, ref, sel, m.all)
	case Layout, Archive:
		err = c.resolveLayout(ctx, im, ref, sel, m.all)
	}
	if err != nil {
		return nil, wrap("resolve", im.Reference, err)
	}
	return im, nil
}

func (c *Client) resolveFile(ctx context.Context, im *Image, ref Reference, sel Select, all bool) error {
	if info, err := os.Stat(ref.Path); err == nil && info.IsDir() {
		if !exists(filepath.Join(ref.Path, "oci-layout")) {
			return failf(ErrNotImage, "give a disk file, or a folder that holds oci-layout, index.json and blobs", "it is a directory, and not an OCI layout")
		}
		ref.Transport = Layout
		im.Reference = ref.String()
		return c.resolveLayout(ctx, im, ref, sel, all)
	}
	f, info, err := openFile(ref.Path)
	if err != nil {
		return err
	}
	tarred := holdsTar(f)
	f.Close()
	if info.Size() == 0 {
		return failf(ErrNotImage, "", "it is empty")
	}
	if tarred {
		if a, err := openArchive(ref.Path); err == nil && a.members["oci-layout"] != (span{}) {
			ref.Transport = Archive
			im.Reference = ref.String()
			return c.resolveLayout(ctx, im, ref, sel, all)
		}
	}
	im.Layout = "file"
	key := fileKey(info)
	im.Disks = []Disk{{Name: filepath.Base(ref.Path), Size: info.Size(), Key: key, place: place{ref: ref, key: key}}}
	return nil
}

func (c *Client) resolveLayout(ctx context.Context, im *Image, ref Reference, sel Select, all bool) error {
	l, err := c.layout(ref)
	if err != nil {
		return err
	}
	defer l.close()
	top, err := layoutIndex(l)
	if err != nil {
		return err
	}
	st := layoutStore{l}
	w := &walk{im: im, ref: ref, st: st, sel: sel, all: all}
	if ref.Digest != "" {
		h, err := parseDigest(ref.Digest)
		if err != nil {
			return err
		}
		return w.descend(ctx, v1.Descriptor{Digest: h}, Variant{}, 0)
	}
	ix, err := named(top.index, ref.Tag)
	if err != nil {
		return err
	}
	// index.json itself has no digest to be asked for by; a single entry of it is the image.
	if len(ix.Manifests) == 1 {
		return w.descend(ctx, ix.Manifests[0], variantOf(ix.Manifests[0]), 0)
	}
	return w.index(ctx, ix, 0)
}

func (c *Client) layout(ref Reference) (layout, error) {
	if ref.Transport == Archive {
		return openArchive(ref.Path)
	}
	return openFolder(ref.Path)
}

func (c *Client) resolveRegistry(ctx context.Context, im *Image, ref Reference, sel Select, m manner) error {
	d, err := c.pinTag(ctx, ref, m.once)
	if err != nil {
		return err
	}
	w := &walk{im: im, ref: ref, st: repository{c, ref.Repo, m.once}, sel: sel, all: m.all}
	return w.descend(ctx, d, Variant{}, 0)
}

// walk goes from a digest through indexes to the manifests, and collects their disks.
type walk struct {
	im  *Image
	ref Reference
	st  store
	sel Select
	all bool

	read int // manifests, of all indexes together
}

func (w *walk) descend(ctx context.Context, d v1.Descriptor, v Variant, depth int) error {
	raw, err := w.st.document(ctx, d)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if w.im.Digest == "" {
		w.im.Digest = d.Digest.String()
		pinned := w.ref
		pinned.Tag, pinned.Digest = "", w.im.Digest
		w.im.Pinned = pinned.String()
	}
	doc, err := parseDocument(raw, string(d.MediaType))
	if err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if doc.index != nil {
		return w.index(ctx, doc.index, depth)
	}
	disks, layout, err := disksOf(doc, d.Digest.String(), v)
	if err != nil {
		return err
	}
	if layout == "tar layers" {
		if err := w.config(ctx, doc.manifest, disks); err != nil {
			return err
		}
	} else if bootable(doc.manifest.Annotations) && w.sel.Layer == "" {
		return bootableError()
	}
	w.im.Layout = layout
	for _, disk := range disks {
		disk.place = place{ref: w.ref}
		w.im.Disks = append(w.im.Disks, disk)
	}
	return nil
}

func (w *walk) index(ctx context.Context, ix *v1.IndexManifest, depth int) error {
	if depth == maxDepth {
		return failf(ErrNotImage, "", "indexes are nested more than %d deep", maxDepth)
	}
	entries := variants(ix)
	if len(entries) == 0 {
		return failf(ErrNotImage, "", "the index lists no image")
	}
	chosen := entries
	if !w.all {
		var err error
		if chosen, err = pickVariants(entries, w.sel); err != nil {
			return err
		}
	}
	if w.read += len(chosen); w.read > maxVariants {
		return failf(ErrNotImage, "", "the index leaves %d manifests to read, at most %d are", w.read, maxVariants)
	}
	var last error
	for _, d := range entries {
		v := variantOf(d)
		if v.Read = slices.ContainsFunc(chosen, func(c v1.Descriptor) bool { return c.Digest == d.Digest }); v.Read {
			err := w.descend(ctx, d, v, depth+1)
			if err != nil && Kind(err) != ErrNotImage {
				return err
			}
			if err != nil { // the others may still be good
				v.Problem, last = err.Error(), err
			}
		}
		w.im.Variants = append(w.im.Variants, v)
	}
	if len(w.im.Disks) == 0 && last != nil {
		return last
	}
	return nil
}

// config reads an ordinary image's config for its platform, and refuses bootable containers by its
// labels.
func (w *walk) config(ctx context.Context, m *v1.Manifest, disks []Disk) error {
	labels := []map[string]string{m.Annotations}
	if t := m.Config.MediaType; (t.IsConfig() || t == "") && m.Config.Digest.Hex != "" {
		raw, err := w.st.document(ctx, m.Config)
		if err != nil {
			return fmt.Errorf("config %s: %w", m.Config.Digest, err)
		}
		var conf struct {
			Architecture, OS string
			Config           struct{ Labels map[string]string }
		}
		if json.Unmarshal(raw, &conf) == nil {
			labels = append(labels, conf.Config.Labels)
			for i := range disks {
				if disks[i].Arch == "" {
					disks[i].OS, disks[i].Arch = conf.OS, goArch(conf.Architecture)
				}
			}
		}
	}
	for _, l := range labels {
		if bootable(l) && w.sel.Layer == "" && w.sel.Path == "" {
			return bootableError()
		}
	}
	return nil
}
