package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// credsVariable is the environment variable in the place of --creds.
const credsVariable = "MACHINEFS_CREDS"

// credentials returns user[:password] of --creds, --creds-file or the environment; "" for none.
func (f *flags) credentials() (string, error) {
	switch {
	case f.creds != "" && f.credsFile != "":
		return "", &usageError{errors.New("--creds and --creds-file: want one of them")}
	case f.credsFile == "":
		return f.creds, nil
	}
	b, err := os.ReadFile(f.credsFile)
	if err != nil {
		return "", local(fmt.Errorf("read --creds-file: %w", err))
	}
	line, rest, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSuffix(line, "\r")
	if user, _, ok := strings.Cut(line, ":"); !ok || user == "" || strings.TrimSpace(rest) != "" {
		return "", &usageError{fmt.Errorf("--creds-file %s: want one line, user:password", f.credsFile)}
	}
	return line, nil
}

// takeCreds takes the variable out of the environment, which helpers would inherit.
func takeCreds() string {
	creds := os.Getenv(credsVariable)
	os.Unsetenv(credsVariable)
	return creds
}

// hideCreds begins the program anew if a password is on its command line, with the password in the
// environment, which other users cannot read.
func hideCreds(args []string) error {
	kept, creds := withoutCreds(args)
	if !strings.Contains(creds, ":") {
		return nil
	}
	env := append(os.Environ(), credsVariable+"="+creds) // of two of a name the last counts
	self, err := ownProgram()
	if err != nil {
		return err
	}
	return syscall.Exec(self, kept, env)
}

// withoutCreds takes --creds out of a command line. Behind "--" nothing is a flag.
func withoutCreds(args []string) (kept []string, creds string) {
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(kept, args[i:]...), creds
		}
		if value, ok := strings.CutPrefix(args[i], "--creds="); ok {
			creds = value
			continue
		}
		if args[i] == "--creds" && i+1 < len(args) {
			i++
			creds = args[i]
			continue
		}
		kept = append(kept, args[i])
	}
	return kept, creds
}
