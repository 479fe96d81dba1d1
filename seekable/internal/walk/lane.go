package walk

import "sync/atomic"

// A lane does one thing after the other in a goroutine of its own. After an error it does nothing
// more.
type lane struct {
	jobs chan job
	idle chan error // answers wait: the first error so far
	bad  atomic.Pointer[error]
}

// A job is one of do, always, which is called after an error as well, or none, which wait waits for.
type job struct {
	do     func() error
	always func()
}

func newLane() *lane {
	l := &lane{jobs: make(chan job, 2*spanPieces), idle: make(chan error)}
	go func() {
		defer close(l.idle)
		var err error
		for job := range l.jobs {
			switch {
			case job.always != nil:
				job.always()
			case job.do == nil:
				l.idle <- err
			case err == nil:
				if err = job.do(); err != nil {
					l.bad.Store(&err)
				}
			}
		}
	}()
	return l
}

func (l *lane) do(f func() error) { l.jobs <- job{do: f} }

// failed returns the first error so far, without waiting.
func (l *lane) failed() error {
	if err := l.bad.Load(); err != nil {
		return *err
	}
	return nil
}

// after calls f when all jobs before it are done, or were left out.
func (l *lane) after(f func()) { l.jobs <- job{always: f} }

// wait returns when all jobs are done.
func (l *lane) wait() error {
	l.jobs <- job{}
	return <-l.idle
}

func (l *lane) close() {
	close(l.jobs)
	<-l.idle
}
