package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// A progress shows how far long work has come: on a terminal as a bar, redrawn in place; elsewhere
// as a log line now and then.
type progress struct {
	out   io.Writer
	log   *slog.Logger // used if out is no terminal
	width func() int   // columns of the terminal; nil: out is no terminal
	title string       // of the log lines
	total int64        // bytes
	now   func() (done, fetched int64)
	begin time.Time

	stop chan struct{}
	done sync.WaitGroup
}

const (
	drawEvery = 200 * time.Millisecond
	logEvery  = 10 * time.Second
)

// startProgress shows the bytes done, of total, and the bytes fetched, as now returns them, until
// finish is called. quiet shows nothing.
func startProgress(
	title string, total int64, quiet bool, log *slog.Logger, now func() (done, fetched int64),
) *progress {
	p := &progress{
		out: os.Stderr, log: log, title: title, total: total, now: now,
		begin: time.Now(), stop: make(chan struct{}),
	}
	every := logEvery
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) {
		every = drawEvery
		p.width = func() int {
			if w, _, err := term.GetSize(fd); err == nil && w > 20 {
				return w
			}
			return 80
		}
	}
	if quiet {
		return p
	}
	p.done.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.show()
			case <-p.stop:
				return
			}
		}
	})
	return p
}

func (p *progress) show() {
	done, fetched := p.now()
	if p.width == nil {
		p.log.Info(p.title, "done", human(done), "of", human(p.total), "fetched", human(fetched), "left", p.left(done))
		return
	}
	fmt.Fprintf(p.out, "\r%s\x1b[K", p.line(done, fetched, p.width()))
}

// line returns the bar, at most width-1 columns wide.
func (p *progress) line(done, fetched int64, width int) string {
	share := 1.0
	if p.total > 0 {
		share = min(1, float64(done)/float64(p.total))
	}
	elapsed := max(time.Since(p.begin).Seconds(), 0.001)
	rate := human(int64(float64(done) / elapsed))
	text := fmt.Sprintf(" %3.0f%%  %s of %s  fetched %s  %s/s  %s left",
		share*100, human(done), human(p.total), human(fetched), rate, p.left(done))
	room := min(width-1-len(text)-3, 40)
	if room < 5 {
		text = strings.TrimSpace(text)
		return text[:min(len(text), width-1)]
	}
	full := int(share * float64(room))
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", room-full) + "]" + text
}

// left estimates the remaining time from the mean rate so far.
func (p *progress) left(done int64) string {
	if done <= 0 {
		return "?"
	}
	t := time.Duration(float64(time.Since(p.begin)) * float64(max(p.total-done, 0)) / float64(done))
	return t.Round(time.Second).String()
}

// finish stops the progress, and wipes the bar from a terminal.
func (p *progress) finish() {
	close(p.stop)
	p.done.Wait()
	if p.width != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}
