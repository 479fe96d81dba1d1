package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	os_signal "os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/machinefs/machinefs/integration/image"
)

// endsSoon is within what a program that is to end at once does so, with room for a busy machine.
const endsSoon = 20 * time.Second

// ends fails unless the program ends by itself, and leaves no mount.
func (m *mounted) ends(t testing.TB, what string) {
	t.Helper()
	began := time.Now()
	m.stopped = true
	select {
	case <-m.exited:
		t.Logf("%s: ended after %v", what, time.Since(began).Round(time.Millisecond))
	case <-time.After(endsSoon):
		t.Errorf("%s: still running after %v: %s", what, endsSoon, m.log.String())
		m.kill()
	}
	if left := mountsBelow(m.dir); len(left) > 0 {
		t.Errorf("%s: left the mount behind", what)
		syscall.Unmount(m.dir, syscall.MNT_DETACH)
	}
}

func (m *mounted) signal(s os.Signal) { m.process.Process.Signal(s) }

// silent is a server that takes requests and answers none; asked gets each.
func silent(t testing.TB) (s *image.Server, asked chan string) {
	t.Helper()
	asked = make(chan string, 100)
	s, err := image.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		<-r.Context().Done()
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s, asked
}

// TestSignalWhileAnImageIsBeingOpened ends the opening, which no open file needs.
func TestSignalWhileAnImageIsBeingOpened(t *testing.T) {
	t.Parallel()
	s, asked := silent(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if os_signal.Ignored(signal) { // under nohup, which the program obeys
			continue
		}
		m := mount(t, "--cache", t.TempDir(), "web=http://"+s.Addr+"/x.raw", "registry=docker://"+s.Addr+"/vm/disk:1")
		var lookups []*exec.Cmd
		for _, name := range []string{"web", "registry"} {
			stat := exec.Command("stat", m.path(name))
			stat.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := stat.Start(); err != nil {
				t.Fatal(err)
			}
			<-asked
			lookups = append(lookups, stat)
		}
		m.signal(signal)
		m.ends(t, signal.String())
		for _, stat := range lookups {
			if err := stat.Wait(); err == nil {
				t.Error("stat of an image that was never opened succeeds")
			}
		}
	}
}

// TestSecondSignalEndsADetachedMount, whose readers would go on for ever.
func TestSecondSignalEndsADetachedMount(t *testing.T) {
	t.Parallel()
	raw, blob := randomDisk(t, 4<<20, image.ZstdSeekTable)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	m := mount(t, "--cache", t.TempDir(), "disk="+serveRanges(t, blob, 0).url())
	f, err := os.Open(m.path("disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.signal(syscall.SIGTERM)
	eventually(t, "the mount is detached", func() bool { return len(mountsBelow(m.dir)) == 0 })
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a detached mount does not serve: %v", err)
	}
	if !strings.Contains(m.log.String(), "second signal") {
		t.Errorf("the log does not tell of the second signal: %s", m.log.String())
	}
	m.signal(syscall.SIGTERM)
	m.ends(t, "second signal")
}

// TestLastReadersEndEndsADetachedMount, though what it waited for never comes.
func TestLastReadersEndEndsADetachedMount(t *testing.T) {
	t.Parallel()
	_, blob := randomDisk(t, 8<<20, image.ZstdSeekTable)
	for _, direct := range []string{"", "iflag=direct"} {
		s := serveRanges(t, blob, 0)
		m := mount(t, "--cache", t.TempDir(), "disk="+s.url())
		if _, err := os.Stat(m.path("disk")); err != nil {
			t.Fatal(err)
		}
		held, reached := s.holds(0)
		s.inject(t, held)
		// A shell holds the file open, so that the mount is in use before the read and until it is over.
		reader := exec.Command("sh", "-c", fmt.Sprintf("exec 3<%s; exec dd if=%s of=/dev/null bs=1M skip=4 count=1 %s", m.path("disk"), m.path("disk"), direct))
		reader.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := reader.Start(); err != nil {
			t.Fatal(err)
		}
		<-reached
		m.signal(syscall.SIGTERM)
		eventually(t, "the mount is detached", func() bool { return len(mountsBelow(m.dir)) == 0 })
		reader.Process.Kill()
		if direct != "" { // a direct read cannot be killed before it is answered
			m.signal(syscall.SIGTERM)
		}
		m.ends(t, "last reader's end "+direct)
		if err := reader.Wait(); err == nil {
			t.Error("a read that was never answered succeeds")
		}
	}
}
