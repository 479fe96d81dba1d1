package integration

import (
	"bytes"
	"crypto/sha256"
	"math"
	"slices"
)

// A verdict is how a program takes an index.
type verdict int

const (
	refused verdict = iota // at a look at its header and table
	blamed                 // by the time that all was read and compared
	used
)

// The spans that forms change, by their number in the index of the source disk. Span 0 is stored.
const (
	someSpan = 5 // has bytes in its window, and so has the one before
	zeroSpan = 6
)

// An indexForm is a way in which an index differs from the one that the program made. forge makes
// the differences that checks are sealed over, so that no check tells of them; spoil makes those in
// the file, whose checks it seals itself as far as they shall fit.
type indexForm struct {
	name  string
	want  verdict
	forge func(x, other *indexParts) // other is an index of another disk of the same size
	spoil func(file []byte) []byte
}

// indexForms are the ways in which an index can differ, by mistake or malice.
var indexForms = slices.Concat(hashForms, stateForms, recordForms, sectionForms, fileForms)

var hashForms = []indexForm{
	{name: "a wrong hash", want: blamed, forge: func(x, _ *indexParts) {
		x.records[someSpan][recordSum] ^= 1
	}},
	{name: "a wrong hash of zeros", want: blamed, forge: func(x, _ *indexParts) {
		x.records[zeroSpan][recordSum] ^= 1
	}},
	{name: "a wrong hash of the first span", want: blamed, forge: func(x, _ *indexParts) {
		x.records[0][recordSum] ^= 1
	}},
	{name: "the hashes of two spans swapped", want: blamed, forge: func(x, _ *indexParts) {
		a, b := x.records[someSpan][recordSum:recordStSum], x.records[zeroSpan][recordSum:recordStSum]
		c := bytes.Clone(a)
		copy(a, b)
		copy(b, c)
	}},
	{name: "another disk's, renamed", want: blamed, forge: func(x, other *indexParts) {
		copy(other.head[headBlobSize:headDecoded], x.head[headBlobSize:])
		copy(other.head[headDigest:headSpare], x.head[headDigest:])
		*x = *other
	}},
	{name: "zeros where there are none", want: blamed, forge: func(x, _ *indexParts) {
		r := x.records[someSpan]
		r[recordFlags] |= flagZero
		sum := sha256.Sum256(make([]byte, le.Uint32(r[recordOutLen:])))
		copy(r[recordSum:], sum[:])
	}},
	{name: "a first span of its own", want: blamed, forge: func(x, _ *indexParts) {
		r := x.records[0]
		own := bytes.Repeat([]byte("boot"), int(le.Uint32(r[recordOutLen:])/4))
		x.states[0] = packedState(uint32(len(own)), 0, own)
		le.PutUint32(r[recordFlags:], flagStored)
		sum := sha256.Sum256(own)
		copy(r[recordSum:], sum[:])
	}},
}

var stateForms = []indexForm{
	{name: "the state of another span", want: blamed, forge: func(x, _ *indexParts) {
		x.states[someSpan] = x.states[someSpan-1]
	}},
	{name: "a state exchanged with its sum", want: blamed, forge: func(x, _ *indexParts) {
		swap(x.states)
	}},
	{name: "a state that its sum does not fit", want: blamed, spoil: func(file []byte) []byte {
		file[len(file)-10] ^= 1
		return file
	}},
	{name: "sums of states exchanged", want: blamed, spoil: func(file []byte) []byte {
		a, b := recordAt(file, someSpan-1), recordAt(file, someSpan)
		c := bytes.Clone(a[recordStSum:recordCRC])
		copy(a[recordStSum:recordCRC], b[recordStSum:])
		copy(b[recordStSum:recordCRC], c)
		sealRecord(a)
		sealRecord(b)
		return sealTable(file)
	}},
	{name: "no state where one is needed", want: blamed, forge: func(x, _ *indexParts) {
		x.states[someSpan] = nil
	}},
	{name: "flipped bits in all states", want: blamed, forge: eachState(func(st []byte) []byte {
		st[len(st)/2] ^= 0x10
		return st
	})},
	{name: "states of no sense", want: blamed, forge: eachState(func(st []byte) []byte {
		return contentOf(len(st))
	})},
	{name: "states of one byte", want: blamed, forge: eachState(func(st []byte) []byte { return st[:1] })},
	{name: "other bytes in a window", want: blamed, forge: func(x, _ *indexParts) {
		st := x.states[someSpan]
		raw := unpack(st[8:])
		raw[len(raw)-1] ^= 0x20 // of the run that reaches farthest back
		x.states[someSpan] = packedState(le.Uint32(st), le.Uint32(st[4:]), raw)
	}},
	{name: "windows of 4 GiB", want: blamed, forge: eachState(func(st []byte) []byte {
		le.PutUint32(st[4:], math.MaxUint32)
		return st
	})},
	{name: "the largest windows", want: blamed, forge: eachState(func(st []byte) []byte {
		le.PutUint32(st[4:], 128<<20)
		return st
	})},
	{name: "states that unpack to 48 MiB", want: blamed, forge: bomb(48<<20, 48<<20)},
	{name: "states that unpack to 4 GiB", want: blamed, forge: bomb(math.MaxUint32, 48<<20)},
	{name: "states that unpack to more than they say", want: blamed, forge: bomb(1<<10, 128<<20)},
	{name: "a stored span that unpacks to 48 MiB", want: blamed, forge: func(x, _ *indexParts) {
		x.states[0] = packedState(48<<20, 0, make([]byte, 48<<20))
	}},
	{name: "a stored span that unpacks to more than it says", want: blamed, forge: func(x, _ *indexParts) {
		x.states[0] = packedState(le.Uint32(x.records[0][recordOutLen:]), 0, make([]byte, 128<<20))
	}},
	{name: "states as long as they may be", want: blamed, forge: func(x, _ *indexParts) {
		for i := someSpan - 1; i < someSpan+2; i++ {
			x.states[i] = append(x.states[i], make([]byte, 32<<20-len(x.states[i]))...)
		}
	}},
	{name: "a state longer than it may be", want: refused, forge: func(x, _ *indexParts) {
		x.states[someSpan] = append(x.states[someSpan], make([]byte, 32<<20+1-len(x.states[someSpan]))...)
	}},
	{name: "states longer than their section", want: refused, spoil: func(file []byte) []byte {
		r := recordAt(file, someSpan)
		le.PutUint32(r[recordStLen:], le.Uint32(r[recordStLen:])+1)
		sealRecord(r)
		return sealTable(file)
	}},
}

var recordForms = []indexForm{
	{name: "spans that overlap in the disk", want: refused, forge: func(x, _ *indexParts) {
		copy(x.records[someSpan][recordOut:recordIn], x.records[someSpan-1])
	}},
	{name: "spans that overlap in the blob", want: blamed, forge: func(x, _ *indexParts) {
		for _, r := range x.records {
			le.PutUint64(r[recordIn:], 0)
		}
	}},
	{name: "spans that all need the whole blob", want: blamed, forge: func(x, _ *indexParts) {
		for _, r := range x.records {
			le.PutUint64(r[recordIn:], 0)
			le.PutUint32(r[recordInLen:], uint32(le.Uint64(x.head[headBlobSize:])))
		}
	}},
	{name: "spans beyond the blob", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint32(x.records[someSpan][recordInLen:], uint32(le.Uint64(x.head[headBlobSize:])))
	}},
	{name: "a span that begins at 2^64", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint64(x.records[someSpan][recordIn:], math.MaxUint64)
	}},
	{name: "a span of 4 GiB", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint32(x.records[someSpan][recordOutLen:], math.MaxUint32)
	}},
	{name: "a span of no byte", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint32(x.records[someSpan][recordOutLen:], 0)
	}},
	{name: "a span that drops 4 GiB", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint32(x.records[someSpan][recordLead:], math.MaxUint32)
	}},
	{name: "a span that drops 16 MiB", want: blamed, forge: func(x, _ *indexParts) {
		le.PutUint32(x.records[someSpan][recordLead:], 16<<20)
	}},
	{name: "a span with an unknown flag", want: refused, forge: func(x, _ *indexParts) {
		x.records[someSpan][recordFlags] |= 1 << 5
	}},
	{name: "a stored span without a state", want: refused, forge: func(x, _ *indexParts) {
		x.records[someSpan][recordFlags] = flagStored
		x.states[someSpan] = nil
	}},
	{name: "two spans exchanged", want: refused, forge: func(x, _ *indexParts) {
		swap(x.records)
		swap(x.states)
	}},
	{name: "no spans", want: refused, forge: func(x, _ *indexParts) {
		x.records, x.states = nil, nil
		clear(x.head[headDecoded:headSections])
	}},
	{name: "a record that its check does not fit", want: refused, spoil: func(file []byte) []byte {
		recordAt(file, someSpan)[recordSum] ^= 1
		return sealTable(file)
	}},
}

var sectionForms = []indexForm{
	{name: "sections of unknown names", want: used, forge: func(x, _ *indexParts) {
		x.more = append(x.more,
			indexSection{"trace", contentOf(100_000)}, indexSection{"", nil}, indexSection{"sixteen letters!", []byte("mfsindex")})
	}},
	{name: "as many sections as there may be", want: used, forge: func(x, _ *indexParts) {
		x.more = append(x.more, make([]indexSection, 64-2-len(x.more))...)
	}},
	{name: "more sections than there may be", want: refused, forge: func(x, _ *indexParts) {
		x.more = append(x.more, make([]indexSection, 65-2-len(x.more))...)
	}},
	{name: "4 billion sections", want: refused, spoil: func(file []byte) []byte {
		le.PutUint32(file[headSections:], math.MaxUint32)
		return file // there is nothing that the check could be of
	}},
	{name: "the states before the spans", want: refused, spoil: func(file []byte) []byte {
		head := headSize + 2*entrySize
		table := head + int(le.Uint64(entryOf(file, 0)[entryLen:]))
		return putSections(file[:headSize], []indexSection{{"states", file[table:]}, {"spans", file[head:table]}})
	}},
	{name: "a section of another name in place of the spans", want: refused, spoil: func(file []byte) []byte {
		entryOf(file, 0)[0] ^= 1
		return sealHead(file)
	}},
	{name: "states that begin before the end of the spans", want: refused, spoil: func(file []byte) []byte {
		d := entryOf(file, 1)
		le.PutUint64(d[entryOff:], le.Uint64(d[entryOff:])-recordSize)
		le.PutUint64(d[entryLen:], le.Uint64(d[entryLen:])+recordSize)
		return sealHead(file)
	}},
	{name: "a gap before the states", want: refused, spoil: func(file []byte) []byte {
		d := entryOf(file, 1)
		le.PutUint64(d[entryOff:], le.Uint64(d[entryOff:])+8)
		le.PutUint64(d[entryLen:], le.Uint64(d[entryLen:])-8)
		return sealHead(file)
	}},
	{name: "sections that begin at 2^64", want: refused, spoil: func(file []byte) []byte {
		le.PutUint64(entryOf(file, 0)[entryOff:], math.MaxUint64-7)
		return sealHead(file)
	}},
	{name: "more spans than the file holds", want: refused, spoil: func(file []byte) []byte {
		d := entryOf(file, 0)
		le.PutUint64(d[entryLen:], recordSize<<40)
		le.PutUint64(entryOf(file, 1)[entryOff:], le.Uint64(d[entryOff:])+recordSize<<40)
		return sealHead(file)
	}},
	{name: "half a record", want: refused, spoil: func(file []byte) []byte {
		d, e := entryOf(file, 0), entryOf(file, 1)
		le.PutUint64(d[entryLen:], le.Uint64(d[entryLen:])-recordSize/2)
		le.PutUint64(e[entryOff:], le.Uint64(e[entryOff:])-recordSize/2)
		le.PutUint64(e[entryLen:], le.Uint64(e[entryLen:])+recordSize/2)
		return sealTable(file)
	}},
	{name: "a table that its sum does not fit", want: refused, spoil: func(file []byte) []byte {
		r := recordAt(file, someSpan)
		r[recordSum] ^= 1
		sealRecord(r)
		return file
	}},
}

var fileForms = []indexForm{
	{name: "a header that its check does not fit", want: refused, spoil: func(file []byte) []byte {
		file[headSpare] ^= 1
		return file
	}},
	{name: "a version of the future", want: refused, forge: func(x, _ *indexParts) {
		x.head[headVersion]++
	}},
	{name: "a blob of 2^64 bytes", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint64(x.head[headBlobSize:], math.MaxUint64)
	}},
	{name: "a byte more than the spans decode to", want: refused, forge: func(x, _ *indexParts) {
		le.PutUint64(x.head[headDecoded:], le.Uint64(x.head[headDecoded:])+1)
	}},
	{name: "the digest of another blob", want: refused, forge: func(x, _ *indexParts) {
		x.head[headDigest+len("sha256:")] ^= 1
	}},
	{name: "cut in the header", want: refused, spoil: func(file []byte) []byte { return file[:headSize-1] }},
	{name: "cut in the directory", want: refused, spoil: func(file []byte) []byte { return file[:headSize+entrySize] }},
	{name: "cut in the table", want: refused, spoil: func(file []byte) []byte {
		return file[:headSize+2*entrySize+3*recordSize+7]
	}},
	{name: "cut in the states", want: refused, spoil: func(file []byte) []byte { return file[:len(file)-100] }},
	{name: "a byte behind the last section", want: refused, spoil: func(file []byte) []byte { return append(file, 0) }},
	{name: "nothing", want: refused, spoil: func([]byte) []byte { return []byte("mfsindex") }},
	{name: "random bytes", want: refused, spoil: func([]byte) []byte { return contentOf(70_000) }},
}

// swap exchanges someSpan's element with the one before.
func swap(of [][]byte) { of[someSpan-1], of[someSpan] = of[someSpan], of[someSpan-1] }

// eachState changes the states with which decoding starts.
func eachState(change func(st []byte) []byte) func(x, _ *indexParts) {
	return func(x, _ *indexParts) {
		for i, st := range x.states {
			if len(st) > 0 && x.records[i][recordFlags]&flagStored == 0 {
				x.states[i] = change(st)
			}
		}
	}
}

// bomb gives all spans that start with a state one that says that it unpacks to stated bytes, and unpacks
// to real ones.
func bomb(stated uint32, real int) func(x, _ *indexParts) {
	return func(x, other *indexParts) {
		packed := packedState(stated, 16<<20, make([]byte, real))
		eachState(func([]byte) []byte { return packed })(x, other)
	}
}

// endToEnd names the forms that make test reads through, one for each way in which the program
// notices; make soak reads through all.
var endToEnd = []string{
	"a wrong hash of the first span", "a state exchanged with its sum", "states that unpack to 4 GiB", "spans beyond the blob",
	"another disk's, renamed", "a first span of its own", "sections of unknown names", "a gap before the states",
}
