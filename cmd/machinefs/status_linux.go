package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/machinefs/machinefs/blobfetch"
	"github.com/machinefs/machinefs/fs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A status describes one image of a mount. The process that serves the mount gives it in the
// extended attribute user.machinefs.status.
type status struct {
	Name      string `json:"name,omitempty"` // path of the file, in the attribute below the mount
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"`
	State     string `json:"state"`              // one of the states below, or why the image is not available
	Verified  string `json:"verified,omitempty"` // "unverified", "verified at TIME", "condemned: CAUSE", "no digest"
	Format    string `json:"format"`
	Size      int64  `json:"size"`     // of the disk, bytes
	Local     int64  `json:"local"`    // bytes of the image file in the cache
	Complete  bool   `json:"complete"` // the whole image file is in the cache
	Blob      int64  `json:"blob"`     // size of the blob, bytes
	Fetched   int64  `json:"fetched"`  // bytes of the blob fetched since the image was opened
	Requests  int64  `json:"requests"`
	Retries   int64  `json:"retries"`
	Errors    int64  `json:"errors"`
	Hits      int64  `json:"hits"`    // reads answered from the cache
	Misses    int64  `json:"misses"`  // reads that waited for a fetch
	Damaged   int64  `json:"damaged"` // pages of the cache found damaged, and fetched again

	Boot    *bootReport `json:"boot,omitempty"`    // what a boot pack or a trace was worth
	Waiting *waiting    `json:"waiting,omitempty"` // what reads, or the opening, wait for
}

// A waiting tells of a host that does not answer as it should.
type waiting struct {
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
	Tries int       `json:"tries"`
	Next  time.Time `json:"next,omitzero"` // of the next try
	Cause string    `json:"cause"`
}

func waitingOf(o blobfetch.Outage, is bool) *waiting {
	if !is || o.Host == "" {
		return nil
	}
	return &waiting{o.Host, o.Since, o.Tries, o.Next, o.Cause}
}

// waitingFor returns what the opening of a reference waits for, as far as its own host is concerned.
func (h *host) waitingFor(ref string) *waiting {
	r, err := blobfetch.ParseReference(ref)
	if err != nil {
		return nil
	}
	for _, o := range slices.Concat(h.client.Outages(), h.shared.Outages()) {
		if o.Host == r.Host() {
			return waitingOf(o, true)
		}
	}
	return nil
}

// String is a line of the table.
func (w *waiting) String() string {
	text := fmt.Sprintf("waits for %s since %v, %d tries", w.Host, time.Since(w.Since).Round(time.Second), w.Tries)
	if !w.Next.IsZero() {
		text += fmt.Sprintf(", next in %v", max(0, time.Until(w.Next)).Round(time.Second))
	}
	return text + ": " + w.Cause
}

// The states of an image.
const (
	stateReady   = "ready"
	stateOpening = "being looked up"
	stateMeasure = "being read once, because its size is not stated"
)

func printStatus(w io.Writer, list []status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tSIZE\tLOCAL\tFETCHED\tOF\tHITS\tMISSES\tRETRIES\tERRORS\tVERIFIED\tFORMAT")
	for _, s := range list {
		if s.State != stateReady {
			fmt.Fprintf(t, "%s\t-\t-\t-\t-\t-\t-\t-\t-\t-\t%s\n", s.Name, s.State)
			if s.Waiting != nil {
				fmt.Fprintf(t, "  %v\n", s.Waiting)
			}
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n",
			s.Name, human(s.Size), human(s.Local), human(s.Fetched), human(s.Blob),
			s.Hits, s.Misses, s.Retries, s.Errors, verifiedWord(s.Verified), s.Format)
		if b := s.Boot; b != nil {
			fmt.Fprintf(t, "  %s %s: %s fetched; %.1f%% of the reads needed no other fetch; %s of it never read\n",
				b.From, b.State, human(b.Bytes), 100*b.Covered, human(b.Wasted))
		}
		if s.Waiting != nil {
			fmt.Fprintf(t, "  %v\n", s.Waiting)
		}
	}
	return t.Flush()
}

// verifiedWord shortens status.Verified to a word for the table.
func verifiedWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	switch word {
	case "verified":
		return "yes"
	case "condemned:":
		return "WRONG"
	case "no":
		return "-"
	}
	return "not yet"
}

func newStatus(f *flags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Show the open images of mounts: bytes local and fetched, whether verified",
		Long: `Show the images that are open, of the mount at DIR or of all mounts.

  LOCAL      bytes of the image in the cache
  FETCHED    bytes fetched since the image was opened; OF is the size of the compressed image
  HITS       reads answered from the cache; MISSES waited for a fetch
  VERIFIED   yes      every byte was compared with the image's digest
             not yet  the digest needs every byte; those read passed the format's checks, if it has any
             WRONG    the bytes do not have the digest: reads fail
             -        the source gives no digest

Below an image that waits for its host stands since when, how often it was asked, and why.
Only the user who mounted sees the status.`,
		Example: `  machinefs status
  machinefs status /mnt/images --json`,
		Args: usage(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			all := len(args) == 0
			if all {
				var err error
				if args, err = fs.Mounts(); err != nil {
					return err
				}
			}
			var list []status
			for _, dir := range args {
				got, err := statusOf(dir)
				if err != nil && all { // the process of one mount may have died: the others are shown
					got, err = []status{{Name: dir, State: "not available: " + err.Error()}}, nil
				}
				if err != nil {
					return err
				}
				list = append(list, got...)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printStatus(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// statusOf asks the process that serves the mount at dir for the status of its images. No image is
// opened for it.
func statusOf(dir string) (list []status, err error) {
	fail := &fs.MountError{Op: "read status of", Dir: dir}
	buf := make([]byte, 64<<10)
	n, err := unix.Getxattr(dir, "user.machinefs.status", buf)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		fail.Err, fail.Remedy = fs.ErrNotMounted, "see: findmnt -t fuse.machinefs"
		return nil, fail
	case err != nil:
		fail.Err = err
		return nil, fail
	}
	if err := json.Unmarshal(buf[:n], &list); err != nil {
		fail.Err = err
		return nil, fail
	}
	for i := range list {
		list[i].Name = filepath.Join(dir, list[i].Name)
	}
	return list, nil
}

// status tells of the image for `machinefs status`.
func (im *image) status() status {
	s := im.cur.Load()
	b, c := s.blob.Stats(), s.file.Stats()
	return status{
		State: stateReady, Reference: s.name(), Digest: s.source.Digest, Verified: im.belief(s), Format: s.format(),
		Size:  s.disk.Size(),
		Local: s.file.LocalBytes(), Complete: s.file.Complete(), Blob: s.blob.Size(),
		Fetched: b.Bytes, Requests: b.Requests, Retries: b.Retries, Errors: b.Errors,
		Hits: c.Hits, Misses: c.Misses, Damaged: c.Failures, Waiting: waitingOf(s.blob.Outage()),
	}
}
