package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/spf13/cobra"
)

func newCache(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "List, verify or prune the cache",
		Example: `  machinefs cache list
  machinefs cache verify
  machinefs cache prune --to 10GiB`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheList(f), newCacheVerify(f), newCachePrune(f))
	return cmd
}

// openCache opens the cache for a command that needs no network.
func openCache(f *flags) (*cache.Cache, error) {
	log, err := f.logger()
	if err != nil {
		return nil, err
	}
	c, err := f.cache(log)
	return c, local(err)
}

// A cacheEntry is one entry of the cache, as --json prints it.
type cacheEntry struct {
	Name     string    `json:"name"`
	Key      string    `json:"key"`
	Size     int64     `json:"size"`    // bytes of the image file; -1: not known, or the entry holds records only
	Present  int64     `json:"present"` // bytes of the image file in the cache
	Disk     int64     `json:"disk"`    // bytes that the entry takes on the local disk
	Complete bool      `json:"complete"`
	Open     bool      `json:"open"`
	Used     time.Time `json:"used"`
}

func newCacheList(f *flags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images in the cache, the most recently used first",
		Example: `  machinefs cache list
  machinefs cache list --json`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCache(f)
			if err != nil {
				return err
			}
			defer c.Close()
			infos, err := c.List()
			if err != nil {
				return local(err)
			}
			list := make([]cacheEntry, 0, len(infos))
			for _, i := range infos {
				list = append(list, cacheEntry{i.Name, i.Key, i.Size, i.Present, i.Disk, i.Complete(), i.Open, i.Used})
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printCache(cmd.OutOrStdout(), list)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print every entry as JSON")
	return cmd
}

func printCache(w io.Writer, list []cacheEntry) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tSIZE\tPRESENT\tON DISK\tUSED\tOPEN")
	for _, e := range imagesOf(list) {
		open := ""
		if e.Open {
			open = "open"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n",
			e.Name, human(e.Size), human(e.Present), human(e.Disk), e.Used.Local().Format("2006-01-02 15:04"), open)
	}
	return t.Flush()
}

// imagesOf returns the entries of image files. A compressed image has several entries of one name:
// one for the blob's own bytes, and one for each layer decoded from it, whose key is the key below
// it, "/" and the layer. The innermost stands for the image and is charged with the bytes on disk
// of all.
func imagesOf(list []cacheEntry) []cacheEntry {
	images := slices.DeleteFunc(slices.Clone(list), func(e cacheEntry) bool {
		return e.Size < 0 || slices.ContainsFunc(list, e.isBelow)
	})
	for _, below := range list {
		if i := slices.IndexFunc(images, below.isBelow); i >= 0 {
			images[i].Disk += below.Disk
		}
	}
	return images
}

// isBelow reports whether the image file of e was decoded from the bytes of below.
func (below cacheEntry) isBelow(e cacheEntry) bool {
	return e.Size >= 0 && below.Key != "" && below.Name == e.Name && strings.HasPrefix(e.Key, below.Key+"/")
}

func newCacheVerify(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:     "verify",
		Short:   "Read everything in the cache, and drop damaged bytes; they are fetched again when needed",
		Example: `  machinefs cache verify`,
		Args:    usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := openCache(f)
			if err != nil {
				return err
			}
			defer c.Close()
			results, err := c.Verify(cmd.Context(), nil)
			if err != nil {
				return local(err)
			}
			out := cmd.OutOrStdout()
			var checked, bad int64
			for _, r := range results {
				checked, bad = checked+r.Checked, bad+r.Bad
				if r.Bad > 0 {
					fmt.Fprintf(out, "%s: %s of %s were damaged and dropped\n", r.Name, human(r.Bad), human(r.Checked))
				}
			}
			fmt.Fprintf(out, "checked %s in %d entries, dropped %s\n", human(checked), len(results), human(bad))
			return nil
		},
	}
}

func newCachePrune(f *flags) *cobra.Command {
	var o cache.PruneOptions
	var limit size
	var unused age
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove images from the cache; open ones stay",
		Example: `  machinefs cache prune --unused 30d
  machinefs cache prune --to 10GiB
  machinefs cache prune --all`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Limit, o.Older = int64(limit), time.Duration(unused)
			if cmd.Flags().Changed("to") {
				o.Limit = max(o.Limit, 1) // 0 would be no limit
			}
			if !o.All && o.Limit == 0 && o.Older == 0 {
				return &usageError{errors.New("cache prune: say what to remove: --all, --to SIZE or --unused AGE")}
			}
			c, err := openCache(f)
			if err != nil {
				return err
			}
			defer c.Close()
			r, err := c.Prune(o)
			if err != nil {
				return local(err)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "removed %d entries, freed %s, %s left\n", len(r.Removed), human(r.Freed), human(r.Left))
			for _, i := range r.InUse {
				fmt.Fprintf(out, "%s is open and stays\n", i.Name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "remove everything")
	cmd.Flags().Var(&limit, "to", "remove the least recently used until the cache takes no more than this")
	cmd.Flags().Var(&unused, "unused", "remove images not used for so long, such as 30d, 2w or 12h")
	return cmd
}
