package blobfetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker-credential-helpers/credentials"
	"golang.org/x/sync/singleflight"
)

// helpers asks credential helpers, the programs docker-credential-NAME:
// https://github.com/docker/docker-credential-helpers#development. Each is asked once per server;
// nothing that it prints is ever shown.
type helpers struct {
	log    *slog.Logger
	flight singleflight.Group
	mu     sync.Mutex
	said   map[string]answered
}

type answered struct {
	login login
	at    time.Time
}

const (
	helperTime = 10 * time.Second
	// An answer of a helper is not asked for again within helperPause, whatever became of it.
	helperPause     = time.Second
	maxHelperAnswer = 1 << 20 // bytes
	tokenUser       = "<token>"
)

// ask returns a helper's login for a server, the zero login if it has none or is not installed. The
// fault of one that fails or does not answer may pass.
func (h *helpers) ask(ctx context.Context, helper, server string, fresh bool) (login, error) {
	if helper == "" || strings.ContainsAny(helper, "/\x00") {
		return login{}, nil
	}
	key := helper + " " + server
	h.mu.Lock()
	known, is := h.said[key]
	h.mu.Unlock()
	if is && (!fresh || time.Since(known.at) < helperPause) {
		return known.login, nil
	}
	done := h.flight.DoChan(key, func() (any, error) {
		l, err := runHelper(helper, server)
		if err != nil {
			return l, err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.said == nil {
			h.said = map[string]answered{}
		}
		h.said[key] = answered{l, time.Now()}
		return l, nil
	})
	select {
	case r := <-done:
		if errors.Is(r.Err, exec.ErrNotFound) {
			h.log.Debug("credential helper is not installed", "helper", helper, "server", server)
			return login{}, nil
		}
		return r.Val.(login), r.Err
	case <-ctx.Done():
		return login{}, transportFault(ctx, ctx.Err())
	}
}

func runHelper(helper, server string) (login, error) {
	program := "docker-credential-" + helper
	path, err := exec.LookPath(program)
	if err != nil {
		return login{}, exec.ErrNotFound
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperTime)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "get")
	cmd.Stdin, cmd.Stdout = strings.NewReader(server), &limited{&out, maxHelperAnswer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its children too
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return login{}, passing("credential helper %s does not answer for %s in %v", program, server, helperTime)
	case err != nil && credentials.IsErrCredentialsNotFoundMessage(strings.TrimSpace(out.String())):
		return login{}, nil
	case err != nil:
		return login{}, passing("credential helper %s fails for %s", program, server)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &answer) != nil {
		return login{}, passing("credential helper %s gives a malformed answer for %s", program, server)
	}
	l := login{user: answer.Username, password: answer.Secret, from: program}
	if answer.Username == tokenUser {
		l = login{identity: answer.Secret, from: program}
	}
	return l, nil
}

// limited keeps the first bytes that are written, and drops the rest.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	l.to.Write(p[:n])
	return len(p), nil
}
