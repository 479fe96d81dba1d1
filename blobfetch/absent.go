package blobfetch

import "time"

// Names that a registry does not have are remembered for absentTime, at most maxAbsent of a
// repository; once there are so many, it is asked for no further name in that time. Somebody goes
// through names then, each of which would be a request.
const (
	absentTime = 5 * time.Second
	maxAbsent  = 32
)

// An absence holds the names that one repository did not have in the absentTime since it began.
type absence struct {
	since time.Time
	tags  map[string]bool
}

// known fails with ErrNotFound for a tag that the repository did not have just now.
func (c *Client) known(repo, tag string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.absent[repo]
	switch {
	case a == nil:
		return nil
	case c.clock.now().Sub(a.since) >= absentTime:
		delete(c.absent, repo)
		return nil
	case a.tags[tag]:
		return failf(ErrNotFound, "check the name and the tag", "it was not there less than %v ago", absentTime)
	case len(a.tags) >= maxAbsent:
		return failf(ErrNotFound, "", "%d other names were not there in the last %v, and no more are asked for", len(a.tags), absentTime)
	}
	return nil
}

// noteAbsent remembers a tag that the repository does not have.
func (c *Client) noteAbsent(repo, tag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.now()
	a := c.absent[repo]
	if a == nil || now.Sub(a.since) >= absentTime {
		if len(c.absent) >= maxAbsent {
			clear(c.absent)
		}
		a = &absence{since: now, tags: map[string]bool{}}
		c.absent[repo] = a
	}
	if len(a.tags) < maxAbsent {
		a.tags[tag] = true
	}
}
