package main

import (
	"slices"
	"testing"
)

func TestWithoutCreds(t *testing.T) {
	for _, tc := range []struct {
		args, kept []string
		creds      string
	}{
		{[]string{"m", "inspect", "--creds", "a:b", "ref"}, []string{"m", "inspect", "ref"}, "a:b"},
		{[]string{"m", "--creds=a:b", "inspect", "ref"}, []string{"m", "inspect", "ref"}, "a:b"},
		{[]string{"m", "inspect", "--", "--creds=a:b"}, []string{"m", "inspect", "--", "--creds=a:b"}, ""},
		{[]string{"m", "inspect", "--creds-file", "x", "ref"}, []string{"m", "inspect", "--creds-file", "x", "ref"}, ""},
		{[]string{"m", "inspect", "--creds"}, []string{"m", "inspect", "--creds"}, ""},
	} {
		kept, creds := withoutCreds(tc.args)
		if !slices.Equal(kept, tc.kept) || creds != tc.creds {
			t.Errorf("%q: %q and %q", tc.args, kept, creds)
		}
	}
}
