package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/machinefs/machinefs/cache"
	"github.com/spf13/cobra"
)

func newCache(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "List, verify or prune what is kept",
		Args:  usage(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheList(f), newCacheVerify(f), newCachePrune(f))
	return cmd
}

// openCache opens the cache alone, for commands that need no network.
func openCache(f *flags) (*cache.Cache, error) {
	log, err := f.logger()
	if err != nil {
		return nil, err
	}
	c, err := f.cache(log)
	return c, local(err)
}

// A kept is one entry of the cache, as --json prints it.
type kept struct {
	Name     string    `json:"name"`
	Key      string    `json:"key"`
	Size     int64     `json:"size"`    // of the image file, bytes; -1: not known, or records only
	Present  int64     `json:"present"` // bytes of it that are kept
	Disk     int64     `json:"disk"`    // bytes on the local disk
	Complete bool      `json:"complete"`
	Open     bool      `json:"open"`
	Used     time.Time `json:"used"`
}

func newCacheList(f *flags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what is kept, the most recently used first",
		Args:  usage(cobra.NoArgs),
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
			list := make([]kept, 0, len(infos))
			for _, i := range infos {
				list = append(list, kept{i.Name, i.Key, i.Size, i.Present, i.Disk, i.Complete(), i.Open, i.Used})
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(t, "IMAGE\tSIZE\tPRESENT\tON DISK\tUSED\tOPEN")
			for _, k := range list {
				if k.Size < 0 { // records of a blob, without bytes of their own
					continue
				}
				open := ""
				if k.Open {
					open = "open"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", k.Name, human(k.Size), human(k.Present), human(k.Disk), k.Used.Local().Format("2006-01-02 15:04"), open)
			}
			return t.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newCacheVerify(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Read all that is kept, and drop what is damaged (it is fetched again when it is needed)",
		Args:  usage(cobra.NoArgs),
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
			var checked, bad int64
			for _, r := range results {
				checked, bad = checked+r.Checked, bad+r.Bad
				if r.Bad > 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of %s were damaged and dropped\n", r.Name, human(r.Bad), human(r.Checked))
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "checked %s in %d entries, dropped %s\n", human(checked), len(results), human(bad))
			return nil
		},
	}
}

func newCachePrune(f *flags) *cobra.Command {
	var o cache.PruneOptions
	var limit size
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Make room: remove images that nobody has open",
		Example: `  machinefs cache prune --all
  machinefs cache prune --to 10GiB
  machinefs cache prune --unused 720h`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Limit = int64(limit); cmd.Flags().Changed("to") {
				o.Limit = max(o.Limit, 1) // 0 is no limit
			}
			if !o.All && o.Limit == 0 && o.Older == 0 {
				return &usageError{fmt.Errorf("cache prune: say what to remove: --all, --to SIZE or --unused DURATION")}
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
			fmt.Fprintf(cmd.OutOrStdout(), "removed %d entries, freed %s, %s left\n", len(r.Removed), human(r.Freed), human(r.Left))
			for _, i := range r.InUse {
				fmt.Fprintf(cmd.OutOrStdout(), "%s is open and stays\n", i.Name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&o.All, "all", false, "remove everything")
	cmd.Flags().Var(&limit, "to", "remove the least recently used until the cache takes no more than this; what was learned of streams goes last")
	cmd.Flags().DurationVar(&o.Older, "unused", 0, "remove what was not used for so long, such as 720h")
	return cmd
}
