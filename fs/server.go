//go:build linux

package fs

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A Server serves one mount.
type Server struct {
	dir    string
	device string // major:minor
	fs     *filesystem
	cancel context.CancelFunc
	served chan struct{} // closed when the last request was answered and all disks are closed
}

func (s *Server) serve(raw *fuse.Server) {
	defer close(s.served)
	raw.Serve()
	s.cancel()
	s.fs.end()
}

// Dir returns the mount point's canonical path.
func (s *Server) Dir() string { return s.dir }

// Wait returns when the mount is gone, by any unmount, and its disks are closed.
func (s *Server) Wait() { <-s.served }

// Done is closed when Wait would return.
func (s *Server) Done() <-chan struct{} { return s.served }

// Drain ends the openings under way, which no open file needs, and lets no other begin. It is to be
// called before Unmount by a process that wants to end.
func (s *Server) Drain() { s.fs.drain() }

// abortPoll is how often a mount that was unmounted is looked at for its end: a read that nobody
// waits for any more is ended then.
const abortPoll = 100 * time.Millisecond

// awaitEnd ends the reads under way once the kernel has ended the connection: the last file is
// closed. Go-fuse itself would wait for their answers first.
func (s *Server) awaitEnd() {
	tick := time.NewTicker(abortPoll)
	defer tick.Stop()
	for {
		select {
		case <-s.served:
			return
		case <-tick.C:
		}
		if connectionEnded() {
			s.cancel()
			return
		}
	}
}

// connectionEnded reports that every FUSE device of this process has lost its mount.
func connectionEnded() bool {
	ended, all := 0, 0
	err := fuseDevices(func(fd int) {
		all++
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, 0); err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0 {
			ended++
		}
	})
	return err == nil && all > 0 && ended == all
}

// lingerTime is how long Unmount waits for the end of a mount that is gone from sight. It ends at
// once unless a process still has it.
const lingerTime = 2 * time.Second

// Unmount unmounts; lazy is that of the function Unmount. It then waits for the end, as Wait does,
// but not for long: a mount lives on while a file of it is open after a lazy unmount, and while a
// copy of it is in another mount namespace, such as a container's or a sandboxed service's. All of
// these lose it when this process exits.
func (s *Server) Unmount(lazy bool) error {
	select {
	case <-s.served:
		return nil
	default:
	}
	err := Unmount(s.dir, false)
	if err != nil && lazy {
		err = Unmount(s.dir, true)
		if err == nil {
			go s.awaitEnd()
		}
		return err
	}
	if err != nil {
		return err
	}
	go s.awaitEnd()
	select {
	case <-s.served:
	case <-time.After(lingerTime):
		s.fs.log.Warn("unmounted, but another mount namespace still has it", "dir", s.dir)
	}
	return nil
}

// Stats counts the requests to a mount since it began; Handles, Backed and Open are as of now.
type Stats struct {
	Lookups    int64 // names that the kernel asked for
	Opens      int64 // calls of Tree.Open
	OpenErrors int64
	Reads      int64 // that reached us: not those served by the kernel's page cache
	ReadBytes  int64
	ReadErrors int64
	Handles    int64 // open file handles
	Backed     int64 // of these, those whose reads never reach us
	Files      int64 // names opened so far
	Open       int64 // of these, those whose disk is open
}

func (s *Server) Stats() Stats {
	c := &s.fs.count
	st := Stats{
		Lookups: c.lookups.Load(), Opens: c.opens.Load(), OpenErrors: c.openErrors.Load(),
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(), ReadErrors: c.readErrors.Load(),
		Handles: c.handles.Load(), Backed: s.fs.backing.handles(),
	}
	s.fs.mu.RLock()
	defer s.fs.mu.RUnlock()
	st.Files = int64(len(s.fs.files))
	for _, f := range s.fs.files {
		if f.disk != nil {
			st.Open++
		}
	}
	return st
}
