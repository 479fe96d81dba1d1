//go:build linux

package fs

import (
	"sync"
	"time"
)

// How often the same failure of the same name is logged, and how many are remembered: a program may
// probe any number of names.
const (
	quietTime  = time.Minute
	quietNames = 1024
)

// quiet keeps a name that is touched again and again, and fails the same way each time, from
// filling the log.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// first reports whether this failure was not reported within quietTime.
func (q *quiet) first(path string, err error) bool {
	key := path + "\x00" + err.Error()
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if t, ok := q.last[key]; ok && now.Sub(t) < quietTime {
		return false
	}
	if q.last == nil || len(q.last) >= quietNames {
		q.last = map[string]time.Time{}
	}
	q.last[key] = now
	return true
}
