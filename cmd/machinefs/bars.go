package main

import "log/slog"

type progressState struct {
	done, total, fetched, written int64
	waiting                       string
}
type barsT struct {
	f   *flags
	log *slog.Logger
}

func startBars(f *flags, log *slog.Logger) *barsT { return &barsT{f, log} }
func (b *barsT) close()                           {}
func (b *barsT) pause(f func())                   { f() }
func (b *barsT) show(title string, now func() progressState) func() {
	p := startProgress(title, now().total, b.f.quiet, b.log, func() (int64, int64) { s := now(); return s.done, s.fetched })
	return p.finish
}
