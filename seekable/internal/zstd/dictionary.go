package zstd

import (
	"encoding/binary"
	"slices"

	"github.com/machinefs/machinefs/seekable/internal/codec"
)

const (
	dictMagic = 0xEC30A437

	// DictionaryID is the id of every dictionary that Dictionary makes, from the range that RFC
	// 8878 §5 leaves to private use.
	DictionaryID = 0x6D616368
)

// The descriptions that a dictionary has in place of a table that was not sent: the default
// distributions written out, and a Huffman tree of two symbols.
var (
	defaultDesc = [codes][]byte{
		codeLL: {0x51, 0x10, 0x63, 0x8c, 0x31, 0xc6, 0x18, 0x63, 0x0c, 0x21, 0xc4, 0x18, 0x63, 0x66, 0x66,
			0x86, 0x46, 0x92, 0x04, 0x00},
		codeOF: {0x20, 0x84, 0x10, 0x42, 0x66, 0x46, 0x44, 0x44, 0x44, 0x44, 0x24, 0x49, 0x02, 0x00},
		codeML: {0x21, 0x14, 0xc4, 0x18, 0x63, 0x8c, 0x21, 0x84, 0x10, 0x42, 0x08, 0x21, 0x84, 0x10,
			0x42, 0x08, 0x21, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x44, 0x24, 0x09, 0x00, 0x00},
	}
	defaultHuff = []byte{0x80, 0x10}
)

// Dictionary returns the Point as a zstd dictionary (RFC 8878 §5): any zstd decoder that is given
// it decodes the Point's blocks, put behind a frame header with the Point's window and
// DictionaryID, and with the last one marked as the last. window is the same as for Decode. A
// natural start needs no dictionary: nil.
//
// The format cannot express two things. A repeat offset that reaches beyond the window's start gets
// zeros before the window; it is one that no block uses. A table in RLE mode is replaced by the
// default one, which only a block that repeats an RLE table would notice; libzstd and
// klauspost/compress never write such blocks. Decode has neither limit: it does not work by way of
// a dictionary.
func Dictionary(at codec.Point, window []byte) ([]byte, error) {
	if at.State == nil {
		return nil, nil
	}
	p, err := decodePlace(at.State, at.In)
	if err != nil {
		return nil, err
	}
	if err := newParser().reset(p.ent); err != nil {
		return nil, damage(at.In, err)
	}
	d := binary.LittleEndian.AppendUint32(nil, dictMagic)
	d = binary.LittleEndian.AppendUint32(d, DictionaryID)
	if p.ent.huff != nil {
		d = append(d, p.ent.huff...)
	} else {
		d = append(d, defaultHuff...)
	}
	for _, c := range []int{codeOF, codeML, codeLL} { // not the order of blocks
		if t := p.ent.tab[c]; t.kind == tableFSE {
			d = append(d, t.desc...)
		} else {
			d = append(d, defaultDesc[c]...)
		}
	}
	for _, r := range p.ent.rep {
		d = binary.LittleEndian.AppendUint32(d, r)
	}
	far := max(slices.Max(p.ent.rep[:]), 8)
	if int64(far) > maxWindow {
		return nil, malformed(at.In, "repeat offset beyond any window")
	}
	if missing := int(far) - len(window); missing > 0 {
		d = append(d, make([]byte, missing)...)
	}
	return append(d, window...), nil
}
