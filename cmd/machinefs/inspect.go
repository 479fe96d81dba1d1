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
		Short: "Tell what disks a reference holds, how they are packed, and what verifies them; fetches only metadata",
		Example: `  machinefs inspect docker://quay.io/podman/machine-os:5.3
  machinefs inspect --json oci-dir:///srv/fcos`,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := newHost(f)
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
				err = r.problem // what there is was told all the same
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A report is what inspect tells. Sizes are bytes; -1 means that only reading the whole stream would tell.
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
	Size      int64   `json:"size"`  // of the disk
	Spans     int64   `json:"spans"` // of the image file, as far as they are known; 0: none are
	SpanSize  int64   `json:"span_size"`
	Entered   string  `json:"entered"`         // how it is entered in the middle
	Index     string  `json:"index,omitempty"` // where the index is that it is entered by
	Verified  string  `json:"verified"`        // what verifies what
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
		dr := diskReport{Name: d.Name, OS: d.OS, Arch: d.Arch, DiskType: d.DiskType, MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Layer: d.Layer}
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
	c := &chosenReport{Format: s.format(), Layers: s.layers, ImageFile: -1, Size: -1, Verified: s.vouched(), Index: s.index.place}
	if s.spans != nil {
		c.ImageFile = s.spans.Size()
		c.Spans, c.SpanSize, c.Entered = s.entered()
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

// entered tells how the image file is entered in the middle: how many spans decode alone, and how large the first one is.
func (s *stack) entered() (n, size int64, how string) {
	total := s.spans.Size()
	if total < 0 {
		return 0, 0, "walked once from the front, which tells its size; then at every span"
	}
	for off := int64(0); off < total; n++ {
		start, end := s.spans.Span(off)
		if run, _ := s.spans.Run(off); run < start || run == start && n == 0 && runsOn(s.spans, end, total) {
			return n, end - start, "walked from the front while it is read; then at every span"
		}
		if n == 0 {
			size = end - start
		}
		off = end
	}
	return n, size, "at every span"
}

// runsOn reports whether what follows the first span has to be walked to.
func runsOn(s cache.Source, off, total int64) bool {
	if off >= total {
		return false
	}
	start, _ := s.Span(off)
	run, _ := s.Run(off)
	return run < start
}

// vouched says what proves the bytes, without flattering.
func (s *stack) vouched() string {
	whole := "nothing proves the whole: the source gives no digest"
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

// checks says which of the formats' own checks verify single ranges.
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
		if c.Entered != "" {
			fmt.Fprintf(t, "entered\t%s\n", c.Entered)
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
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", mark, d.Layer, orDash(d.Arch), orDash(d.DiskType), human(d.Size), orDash(d.MediaType), d.Name)
	}
	return t.Flush()
}

func bytesOrUnknown(n int64) string {
	if n < 0 {
		return "size not stated: known when all of it was read once"
	}
	return fmt.Sprintf("%s (%d bytes)", human(n), n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// glanceLen is how much of a stream inspect decodes at the most, to see what is inside.
const glanceLen = 1 << 20

// errBeyond means that what was asked for lies beyond what a glance decodes.
var errBeyond = errors.New("beyond the first bytes")

// glance decodes the beginning of st.
func glance(ctx context.Context, st *seekable.Stream) (*glimpse, error) {
	g := &glimpse{head: make([]byte, glanceLen), size: st.Size()}
	if g.size < 0 {
		g.size = 1 << 50 // more than any offset that is in the head points to
	}
	n, err := st.Head(ctx, g.head)
	g.head = g.head[:n]
	return g, err
}

// A glimpse is the beginning of a decoded stream, standing for all of it.
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

// nextFormat names the layer that b begins with, as far as its first bytes tell.
func nextFormat(ctx context.Context, b byteSource) string {
	head := make([]byte, min(512, b.Size()))
	if err := b.ReadAt(ctx, head, 0); err != nil {
		return "?"
	}
	return seekable.Sniff(head)
}

var _ disk.File = (*glimpse)(nil)
