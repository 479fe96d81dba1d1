package main

import (
	"strings"
	"testing"
)

// TestAFailureIsShownAndASuccessIsNot feeds two packages: one passes, one fails in a subtest.
func TestAFailureIsShownAndASuccessIsNot(t *testing.T) {
	in := `go: downloading example.org/m v1.0.0
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    a_test.go:1: not interesting\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":2.5}
{"Action":"output","Package":"m/a","Output":"PASS\n"}
{"Action":"output","Package":"m/a","Output":"ok  \tm/a\t2.6s\n"}
{"Action":"pass","Package":"m/a","Elapsed":2.6}
{"Action":"build-output","ImportPath":"m/c","Output":"c.go:1: syntax error\n"}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"=== RUN   TestBad\n"}
{"Action":"output","Package":"m/b","Test":"TestBad/part","Output":"    b_test.go:7: wrong bytes\n"}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"--- FAIL: TestBad (1.00s)\n"}
{"Action":"output","Package":"m/b","Test":"TestBad/part","Output":"    --- FAIL: TestBad/part (7.00s)\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad/part","Elapsed":7}
{"Action":"fail","Package":"m/b","Test":"TestBad","Elapsed":1}
{"Action":"output","Package":"m/b","Test":"TestStuck","Output":"panic: test timed out\n"}
{"Action":"output","Package":"m/b","Output":"FAIL\tm/b\t8.0s\n"}
{"Action":"fail","Package":"m/b","Elapsed":8}
`
	want := `go: downloading example.org/m v1.0.0
ok  	m/a	2.6s
c.go:1: syntax error
    b_test.go:7: wrong bytes
--- FAIL: TestBad (1.00s)
    --- FAIL: TestBad/part (7.00s)
panic: test timed out
FAIL	m/b	8.0s

slowest tests, in seconds:
    7.00  m/b TestBad
    2.50  m/a TestGood
`
	var out strings.Builder
	if err := run(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Errorf("printed\n%s\nwanted\n%s", out.String(), want)
	}
}
