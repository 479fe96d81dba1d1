package voucher

import (
	"errors"
	"fmt"
)

// A MismatchError says that bytes are not those that the digest, or the chain of hash states,
// speaks of.
type MismatchError struct {
	Digest string
	Off    int64 // where the bytes differ from the first time, or their link begins; -1: the whole digest differs
	Got    string
}

func (e *MismatchError) Error() string {
	const cause = "the connection or the server's copy is damaged"
	if e.Off >= 0 {
		return fmt.Sprintf("verify blob %s: the source sent other bytes at %d than the first time; %s",
			e.Digest, e.Off, cause)
	}
	return fmt.Sprintf("verify blob: its bytes have the digest %s, want %s; %s", e.Got, e.Digest, cause)
}

// An IncompleteError says why the digest cannot be compared yet.
type IncompleteError struct {
	Missing int64 // bytes that have not passed
	Lossy   bool  // bytes were used that could be neither hashed nor kept, or were lost before they were hashed
}

func (e *IncompleteError) Error() string {
	if e.Lossy {
		return "the digest cannot be compared: bytes that came ahead of the hash found no room, or were lost"
	}
	return fmt.Sprintf("the digest cannot be compared: %d bytes have not been read", e.Missing)
}

// ErrForgotten says that the hash chain was begun anew since it was opened, by another process that
// found the blob's bytes wrong, or that it is gone: so the reader must begin anew as well.
var ErrForgotten = errors.New("the bytes of this blob were forgotten: " +
	"another process found them wrong, or the hash chain is damaged")
