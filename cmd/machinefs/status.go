package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/machinefs/machinefs/fs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A status is what the process that serves a mount tells of one image, in the attribute user.machinefs.status.
type status struct {
	Name      string `json:"name,omitempty"` // path of the file; filled in by who asks
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"`
	State     string `json:"state"`              // stateReady, or what is going on, or why it is not available
	Verified  string `json:"verified,omitempty"` // "unverified", "verified at TIME", "condemned: CAUSE", "no digest"
	Format    string `json:"format"`
	Size      int64  `json:"size"`     // of the disk, bytes
	Local     int64  `json:"local"`    // bytes of the image file that are kept here
	Complete  bool   `json:"complete"` // all of it is
	Blob      int64  `json:"blob"`     // size of what is fetched from, bytes
	Fetched   int64  `json:"fetched"`  // bytes fetched by this process
	Requests  int64  `json:"requests"`
	Retries   int64  `json:"retries"`
	Errors    int64  `json:"errors"`
	Hits      int64  `json:"hits"`    // reads answered from the cache
	Misses    int64  `json:"misses"`  // reads that had to wait
	Damaged   int64  `json:"damaged"` // kept pages that were found damaged, and fetched again
}

// The states of an image.
const (
	stateReady   = "ready"
	stateOpening = "being looked up"
	stateMeasure = "being read once, because its size is not stated"
)

func newStatus(f *flags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [DIR]",
		Short: "Tell, for each image of the mounts, what is local and what was fetched",
		Args:  usage(cobra.MaximumNArgs(1)),
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
				if err != nil && all { // one whose process has died says nothing about the others
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

// statusOf asks the process that serves the mount at dir for the status of every image that somebody has touched. Nothing is touched by asking.
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

func printStatus(w io.Writer, list []status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tSIZE\tLOCAL\tFETCHED\tOF\tHITS\tMISSES\tRETRIES\tERRORS\tVERIFIED\tFORMAT")
	for _, s := range list {
		if s.State != stateReady {
			fmt.Fprintf(t, "%s\t-\t-\t-\t-\t-\t-\t-\t-\t-\t%s\n", s.Name, s.State)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", s.Name, human(s.Size), human(s.Local), human(s.Fetched), human(s.Blob), s.Hits, s.Misses, s.Retries, s.Errors, verifiedWord(s.Verified), s.Format)
	}
	return t.Flush()
}

// verifiedWord shortens what is known of the digest to a word.
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

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // formats read "zstd > qcow2"
	return e.Encode(v)
}
