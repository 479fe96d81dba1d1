package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
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
					got, err = []status{{Name: dir, Format: "not available: " + err.Error()}}, nil
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

// statusOf asks for the status of every image below dir that somebody has touched.
func statusOf(dir string) (list []status, err error) {
	found := false
	err = filepath.WalkDir(dir, func(path string, d iofs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && path != dir && err != nil {
				return filepath.SkipDir
			}
			return err
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Getxattr(path, "user.machinefs.status", buf)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			return nil
		}
		found = true
		if err != nil {
			list = append(list, status{Name: path, Format: "not available: " + err.Error()})
			return nil
		}
		var st status
		if err := json.Unmarshal(buf[:n], &st); err != nil {
			return fmt.Errorf("read status of %s: %w", path, err)
		}
		st.Name = path
		list = append(list, st)
		return nil
	})
	if err != nil {
		return nil, &fs.MountError{Op: "read status of", Dir: dir, Err: err}
	}
	if mounts, err := fs.Mounts(); err == nil && !found && !contains(mounts, dir) {
		return nil, &fs.MountError{Op: "read status of", Dir: dir, Err: fs.ErrNotMounted, Remedy: "see: findmnt -t fuse.machinefs"}
	}
	return list, nil
}

func contains(mounts []string, dir string) bool {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	for _, m := range mounts {
		if abs == m || strings.HasPrefix(abs, m+"/") {
			return true
		}
	}
	return false
}

func printStatus(w io.Writer, list []status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tSIZE\tLOCAL\tFETCHED\tOF\tHITS\tMISSES\tRETRIES\tERRORS\tFORMAT")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Name, human(s.Size), human(s.Local), human(s.Fetched), human(s.Blob), s.Hits, s.Misses, s.Retries, s.Errors, s.Format)
	}
	return t.Flush()
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false) // formats read "zstd > qcow2"
	return e.Encode(v)
}
