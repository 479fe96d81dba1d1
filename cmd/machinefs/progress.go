package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// A progressMode is the value of --progress.
type progressMode string

const (
	progressAuto  progressMode = "auto"  // bars on a terminal, log lines elsewhere
	progressPlain progressMode = "plain" // log lines
	progressJSON  progressMode = "json"  // an object a second
	progressNone  progressMode = "none"
)

var progressModes = []progressMode{progressAuto, progressPlain, progressJSON, progressNone}

// Set parses the flag.
func (m *progressMode) Set(v string) error {
	if !slices.Contains(progressModes, progressMode(v)) {
		return errors.New("want auto, plain, json or none")
	}
	*m = progressMode(v)
	return nil
}

// String is the flag's value.
func (m *progressMode) String() string { return string(*m) }

// Type names the flag's value in help.
func (m *progressMode) Type() string { return "how" }

// A progressState is how far a piece of work has come.
type progressState struct {
	done, total int64  // bytes of the blob that have passed, those of an earlier run included; total 0: not known
	fetched     int64  // bytes over the network, in this run
	written     int64  // bytes of the result
	waiting     string // what it waits for, such as an outage; empty: nothing
}

// A progress shows pieces of work under way on standard error: a bar for each on a terminal, and
// elsewhere log lines or JSON.
type progress struct {
	mode progressMode
	log  *slog.Logger
	bars *mpb.Progress // nil: no bars are drawn
}

const (
	drawEvery = 200 * time.Millisecond
	logEvery  = 10 * time.Second
	jsonEvery = time.Second
)

// screen is where log lines go: above the bars, where some are drawn.
var screen = &terminal{out: os.Stderr}

// A terminal is standard error, which bars may be drawn on.
type terminal struct {
	mu   sync.Mutex
	out  io.Writer
	bars *mpb.Progress
}

// Write writes whole lines.
func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	bars := t.bars
	t.mu.Unlock()
	if bars != nil {
		if n, err := bars.Write(p); err == nil {
			return n, nil
		}
	}
	return t.out.Write(p)
}

func (t *terminal) draw(bars *mpb.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bars = bars
}

// newProgress returns a progress without work.
func newProgress(f *flags, log *slog.Logger) *progress {
	p := &progress{mode: f.progress, log: log}
	if f.quiet {
		p.mode = progressNone
	}
	if p.mode == progressAuto {
		fd := int(os.Stderr.Fd())
		w, h, err := term.GetSize(fd)
		if p.mode = progressPlain; term.IsTerminal(fd) && err == nil && w > 0 && h > 0 && os.Getenv("TERM") != "dumb" {
			p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithRefreshRate(drawEvery))
			screen.draw(p.bars)
		}
	}
	return p
}

// stdout is where results go: where they would tear the bars, above these.
func (p *progress) stdout(out io.Writer) io.Writer {
	if p.bars != nil && out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd())) {
		return screen
	}
	return out
}

// add shows a piece of work until finish is called. now tells its state, several times a second.
func (p *progress) add(title string, now func() progressState) (finish func()) {
	r := &rater{}
	r.see(time.Now(), now())
	if p.bars != nil {
		line := func(w io.Writer, st decor.Statistics) error {
			s := now()
			r.see(time.Now(), s)
			_, err := io.WriteString(w, progressLine(title, s, r, st.AvailableWidth))
			return err
		}
		bar, err := p.bars.Add(0, mpb.BarFillerFunc(line), mpb.BarRemoveOnComplete(), mpb.BarFillerTrim())
		if err != nil {
			return func() {}
		}
		return func() {
			bar.Abort(true)
			bar.Wait()
		}
	}
	if p.mode == progressNone {
		return func() {}
	}
	every := logEvery
	if p.mode == progressJSON {
		every = jsonEvery
	}
	stop, done := make(chan struct{}), sync.WaitGroup{}
	done.Go(func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-tick.C:
				p.tell(title, now(), r)
			case <-stop:
				tick.Stop()
				return
			}
		}
	})
	return func() {
		close(stop)
		done.Wait()
		if p.mode == progressJSON {
			p.tell(title, now(), r)
		}
	}
}

// tell writes a log line or a JSON object.
func (p *progress) tell(title string, s progressState, r *rater) {
	r.see(time.Now(), s)
	rate, left := r.rate(), r.left(s)
	if p.mode == progressJSON {
		o := struct {
			Time    time.Time `json:"time"`
			Title   string    `json:"title"`
			Done    int64     `json:"done"`  // bytes of the blob
			Total   int64     `json:"total"` // 0: not known
			Fetched int64     `json:"fetched"`
			Written int64     `json:"written"`
			Rate    int64     `json:"rate"` // bytes of the blob per second
			Left    *float64  `json:"left"` // seconds; null: not known
			Waiting string    `json:"waiting,omitempty"`
		}{time.Now().UTC(), title, s.done, max(s.total, 0), s.fetched, s.written, max(0, int64(rate)), nil, s.waiting}
		if left >= 0 {
			seconds := left.Seconds()
			o.Left = &seconds
		}
		line, err := json.Marshal(o)
		if err == nil {
			screen.Write(append(line, '\n'))
		}
		return
	}
	args := []any{"done", human(s.done), "of", sizeOr(s.total), "fetched", human(s.fetched), "rate", rateText(rate), "left", leftText(left)}
	if s.waiting != "" {
		args = append(args, "waiting", s.waiting)
	}
	p.log.Info(title, args...)
}

func sizeOr(n int64) string {
	if n <= 0 {
		return "?"
	}
	return human(n)
}

// close takes the bars off the terminal. Nothing is drawn after it.
func (p *progress) close() {
	if p.bars != nil {
		p.bars.Shutdown()
		screen.draw(nil)
	}
}

// A rater measures the rate of the last seconds. Bytes of an earlier run do not count.
type rater struct {
	mu      sync.Mutex
	total   int64
	samples []sample // the first one and those of the last rateWindow
}

type sample struct {
	at   time.Time
	done int64
}

const (
	rateWindow = 10 * time.Second
	rateFirst  = 400 * time.Millisecond // before that, a rate would be a guess
)

// see notes a state. Where it begins to be known, or counts something else, the rate begins anew.
func (r *rater) see(at time.Time, s progressState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.total != r.total {
		r.total, r.samples = s.total, nil
	}
	if s.total > 0 {
		r.note(at, s.done)
	}
}

// note adds a sample. mu is held.
func (r *rater) note(at time.Time, done int64) {
	if k := len(r.samples); k > 0 && at.Sub(r.samples[k-1].at) < drawEvery/2 {
		return
	}
	r.samples = append(r.samples, sample{at, done})
	for len(r.samples) > 2 && at.Sub(r.samples[1].at) > rateWindow {
		r.samples = r.samples[1:]
	}
}

// rate returns bytes per second; less than 0 while it is not known.
func (r *rater) rate() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.samples) < 2 {
		return -1
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	took := last.at.Sub(first.at)
	if took < rateFirst {
		return -1
	}
	return max(0, float64(last.done-first.done)/took.Seconds())
}

// left estimates the remaining time; less than 0 if there is nothing to tell by.
func (r *rater) left(s progressState) time.Duration {
	const most = 1000 * time.Hour
	rate := r.rate()
	if s.total <= 0 || rate <= 0 {
		return -1
	}
	seconds := float64(max(0, s.total-s.done)) / rate
	if seconds > most.Seconds() {
		return -1
	}
	return time.Duration(seconds * float64(time.Second))
}

func rateText(bytes float64) string {
	if bytes < 0 {
		return "-/s"
	}
	return human(int64(bytes)) + "/s"
}

func leftText(d time.Duration) string {
	if d < 0 {
		return "-"
	}
	return d.Round(time.Second).String()
}

// progressLine is a line of at most width-1 columns. Where that is narrow, what is less important is
// left out.
func progressLine(title string, s progressState, r *rater, width int) string {
	width = max(1, width-1)
	percent := "  ?%"
	share := 0.0
	if s.total > 0 {
		share = min(1, float64(max(s.done, 0))/float64(s.total))
		percent = fmt.Sprintf("%3d%%", int(share*100))
	}
	tail := fmt.Sprintf("%s  %s left", rateText(r.rate()), leftText(r.left(s)))
	if s.waiting != "" {
		tail = s.waiting
	}
	if s.total > 0 {
		s.done = min(s.done, s.total)
	}
	size := fmt.Sprintf("%s of %s", human(s.done), sizeOr(s.total))
	const shortest, bar = 8, 12 // columns
	line := percent + "  " + tail
	if rest := width - len(line) - len(size) - 2; rest >= 0 {
		line = percent + "  " + size + "  " + tail
	}
	if rest := width - len(line) - 3; rest >= shortest+bar {
		n := min(rest-shortest, 30)
		full := int(share * float64(n))
		line = "[" + strings.Repeat("#", full) + strings.Repeat("-", n-full) + "] " + line
	}
	if rest := width - len([]rune(line)) - 1; rest >= shortest {
		line = shorten(title, rest) + " " + line
	}
	if runes := []rune(line); len(runes) > width {
		line = string(runes[:width])
	}
	return line
}

// shorten cuts a title in its middle to at most n columns, and pads nothing.
func shorten(title string, n int) string {
	runes := []rune(title)
	if len(runes) <= n {
		return title
	}
	head := (n - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(n-1-head):])
}
