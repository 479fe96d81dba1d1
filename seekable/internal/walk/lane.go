package walk

// A lane does one thing after the other in a goroutine of its own. After an error it does nothing
// more.
type lane struct {
	jobs chan func() error
	idle chan error // answers wait: the first error so far
}

func newLane() *lane {
	l := &lane{jobs: make(chan func() error, 2*spanPieces), idle: make(chan error)}
	go func() {
		defer close(l.idle)
		var err error
		for job := range l.jobs {
			if job == nil {
				l.idle <- err
			} else if err == nil {
				err = job()
			}
		}
	}()
	return l
}

func (l *lane) do(job func() error) { l.jobs <- job }

// wait returns when all jobs are done.
func (l *lane) wait() error {
	l.jobs <- nil
	return <-l.idle
}

func (l *lane) close() {
	close(l.jobs)
	<-l.idle
}
