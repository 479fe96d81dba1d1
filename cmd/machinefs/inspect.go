package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/cache"
	"github.com/machinefs/machinefs/disk"
	"github.com/machinefs/machinefs/seekable"
	"github.com/spf13/cobra"
)

func newInspect(f *flags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect REF",
		Short: "Show the disks of a reference, their formats and checks; fetches only metadata",
		Example: `  machinefs inspect docker://quay.io/podman/machine-os:5.3
  machinefs inspect --json oci-dir:///srv/fcos`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := newHost(f, args[0])
			if err != nil {
				return err
			}
			defer h.Close()
			r, err := h.inspect(cmd.Context(), args[0], f.selection)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = r.print(cmd.OutOrStdout())
			}
			if err == nil {
				err = r.problem // after the report, which lists the disks there are
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A report is the output of inspect. Sizes are bytes; -1 is a size that only a pass through the
// whole stream tells.
type report struct {
	Reference string        `json:"reference"`
	Pinned    string        `json:"pinned,omitempty"`
	Layout    string        `json:"layout"`
	Disks     []diskReport  `json:"disks"`
	Chosen    *chosenReport `json:"chosen,omitempty"`
	Problem   string        `json:"problem,omitempty"` // why none was chosen
	problem   error
}

type diskReport struct {
	Name      string `json:"name"`
	OS        string `json:"os,omitempty"`
	Arch      string `json:"arch,omitempty"`
	DiskType  string `json:"disktype,omitempty"`
	MediaType string `json:"media_type,omitempty"`
	Digest    string `json:"digest,omitempty"`
	Size      int64  `json:"size"` // of the blob
	Layer     int    `json:"layer"`
	Chosen    bool   `json:"chosen"`
}

type chosenReport struct {
	Format    string  `json:"format"` // zstd > qcow2
	Layers    []layer `json:"layers"`
	ImageFile int64   `json:"image_file_size"`
	Size      int64   `json:"size"`            // of the disk
	Spans     int64   `json:"spans"`           // of the image file that are known; 0: none
	SpanSize  int64   `json:"span_size"`       // of the first span
	Access    string  `json:"random_access"`   // since when the image file is read anywhere
	Index     string  `json:"index,omitempty"` // place of the index in use
	Verified  string  `json:"verified"`        // the checks, and the bytes that each covers
}

func (h *host) inspect(ctx context.Context, ref string, sel blobfetch.Select) (*report, error) {
	im, err := h.client.ResolveAll(ctx, ref)
	if err != nil {
		return nil, err
	}
	r := &report{Reference: im.Reference, Pinned: im.Pinned, Layout: im.Layout}
	chosen, err := im.Match(sel)
	if err != nil {
		r.Problem, r.problem = err.Error(), err
	}
	for _, d := range im.Disks {
		dr := diskReport{
			Name: d.Name, OS: d.OS, Arch: d.Arch, DiskType: d.DiskType, MediaType: d.MediaType,
			Digest: d.Digest, Size: d.Size, Layer: d.Layer,
		}
		for _, c := range chosen {
			dr.Chosen = dr.Chosen || c.Key == d.Key && c.Manifest == d.Manifest && c.Layer == d.Layer
		}
		r.Disks = append(r.Disks, dr)
	}
	if len(chosen) == 0 {
		return r, nil
	}
	opened, err := h.open(ctx, ref, sel, opening{glance: true})
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	s := opened.cur.Load()
	c := &chosenReport{
		Format: s.format(), Layers: s.layers, ImageFile: -1, Size: -1, Verified: s.evidence(), Index: s.index.place,
	}
	if s.spans != nil {
		c.ImageFile = s.spans.Size()
		c.Spans, c.SpanSize, c.Access = s.access()
	}
	if s.disk != nil && (!s.disk.Identity() || c.ImageFile >= 0) {
		c.Size = s.disk.Size()
	}
	if s.inner != "" {
		c.Size = -1
	}
	r.Chosen = c
	return r, nil
}

// access returns the number of spans that decode alone, up to the first that does not, the size of
// the first span in bytes, and, for users, since when the image file is read anywhere.
func (s *stack) access() (n, size int64, since string) {
	total := s.spans.Size()
	if total < 0 {
		return 0, 0, "after a first pass, which also finds the size, or with an index"
	}
	for off := int64(0); off < total; n++ {
		start, end := s.spans.Span(off)
		if from, _ := s.spans.Run(off); from < start || from == start && n == 0 && needsWalk(s.spans, end, total) {
			return n, end - start, "after a first pass, or with an index"
		}
		if n == 0 {
			size = end - start
		}
		off = end
	}
	return n, size, "at once"
}

// needsWalk reports whether the span at off is decoded only together with spans before it.
func needsWalk(s cache.Source, off, total int64) bool {
	if off >= total {
		return false
	}
	start, _ := s.Span(off)
	from, _ := s.Run(off)
	return from < start
}

// evidence names, for users, the checks of the bytes: of single ranges first, then of the whole
// blob.
func (s *stack) evidence() string {
	whole := "nothing verifies the whole: the source gives no digest"
	switch d := s.source.Digest; {
	case d != "" && s.voucher.Verified():
		whole = "the whole blob by " + d + ", which was compared"
	case d != "":
		whole = "the whole blob by " + d + ", when all of it has been read"
	}
	if s.index.id != "" {
		return "each span by its SHA-256 in the index; the index, unless it was given, and " + whole
	}
	return s.checks() + "; " + whole
}

// checks names the checks of single ranges: those of the outermost format that has any.
func (s *stack) checks() string {
	for _, l := range s.layers {
		if c := seekable.Checks(l.Format); c != "" {
			return c
		}
	}
	return "single ranges by nothing but the connection"
}

func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "reference\t%s\n", r.Reference)
	if r.Pinned != "" {
		fmt.Fprintf(t, "pinned\t%s\n", r.Pinned)
	}
	fmt.Fprintf(t, "layout\t%s\n", r.Layout)
	if c := r.Chosen; c != nil {
		fmt.Fprintf(t, "format\t%s\n", c.Format)
		fmt.Fprintf(t, "disk\t%s\n", bytesOrUnknown(c.Size))
		fmt.Fprintf(t, "image file\t%s\n", bytesOrUnknown(c.ImageFile))
		if c.Spans > 0 {
			fmt.Fprintf(t, "spans\t%d, the first of %s\n", c.Spans, human(c.SpanSize))
		}
		if c.Access != "" {
			fmt.Fprintf(t, "random access\t%s\n", c.Access)
		}
		if c.Index != "" {
			fmt.Fprintf(t, "index\t%s\n", c.Index)
		}
		fmt.Fprintf(t, "verified\t%s\n", c.Verified)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\tLAYER\tARCH\tDISKTYPE\tSIZE\tMEDIA TYPE\tNAME")
	for _, d := range r.Disks {
		mark := ""
		if d.Chosen {
			mark = "*"
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n",
			mark, d.Layer, orDash(d.Arch), orDash(d.DiskType), human(d.Size), orDash(d.MediaType), d.Name)
	}
	return t.Flush()
}

func bytesOrUnknown(n int64) string {
	if n < 0 {
		return "not stated; a first pass through the whole stream finds it"
	}
	return fmt.Sprintf("%s (%d bytes)", human(n), n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// glanceLen is the number of bytes of a stream that inspect decodes at most.
const glanceLen = 1 << 20

// errBeyond is the error for bytes beyond those that a glance decodes.
var errBeyond = errors.New("beyond the first bytes")

// glance decodes the first bytes of st.
func glance(ctx context.Context, st *seekable.Stream) (*glimpse, error) {
	g := &glimpse{head: make([]byte, glanceLen), size: st.Size()}
	if g.size < 0 {
		g.size = 1 << 50 // not known: larger than all offsets in the head
	}
	n, err := st.Head(ctx, g.head)
	g.head = g.head[:n]
	return g, err
}

// A glimpse is the beginning of a decoded stream. It has the size of all of it.
type glimpse struct {
	head []byte
	size int64
}

func (g *glimpse) Size() int64 { return g.size }

func (g *glimpse) ReadAt(_ context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(len(g.head)) {
		return errBeyond
	}
	copy(p, g.head[off:])
	return nil
}

// nextFormat returns the name of the format that b's first bytes look like, or "?".
func nextFormat(ctx context.Context, b byteSource) string {
	head := make([]byte, min(512, b.Size()))
	if err := b.ReadAt(ctx, head, 0); err != nil {
		return "?"
	}
	return seekable.Sniff(head)
}

var _ disk.File = (*glimpse)(nil)
