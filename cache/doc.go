// Package cache keeps what has been fetched and decoded of image files, so that no span is fetched twice on one machine.
//
// # The concept
//
// Every image file has an entry, a folder that holds
//
//	data       the decoded bytes, at their own offsets, in a sparse file; pages of zeros are holes
//	table      one uint32 for each 4 KiB page of data: 0 = absent, else what word in page.go makes of the page's CRC32C
//	edges      16 bytes for each page, used only for a page that two spans share, while one of them is missing
//	fills      empty; its byte ranges are locked by whoever fetches these bytes
//	lock       empty; flock shared while the entry is open, exclusive while it is removed. Its mtime is the last use
//	meta.json  format version, key, name, size, time of creation
//	rec-NAME   the caller's own records, such as a stream's index
//
// A Source decodes spans, the units that cannot be divided; a File puts what they yield into data and table and serves
// reads from there. Spans need not start or end on a page, and the cache relies on no span layout: layouts may differ between
// processes, and change while a stream is walked. It stores pages, and asks for the spans that cover what is absent.
//
// # The rules
//
//   - A page's bytes are written before its word is stored. Nothing is synced.
//   - A page is served from the file only if its bytes match its word. This one check stands for all that can go wrong below:
//     a crash between the two writes, writes lost in a power failure, torn pages, flipped bits, a damaged table. A page that does not
//     match is absent: its word is cleared and its span fetched again. A word of 32 bits misses a random damage once in 4e9.
//   - Whoever stores into a page stores the one content which that page can have. Therefore two processes may write the
//     same page at the same time, and a file that was verified stays so.
//   - One flight fetches a span, however many goroutines and processes wait for it (flight.go). In the process flights are told
//     apart by the interval of bytes that they will pass; between processes by a lock on the same interval of the file fills, which
//     the kernel drops when its holder dies.
//   - Whoever waits for a flight in its own process is served from the bytes in hand. So a full disk costs only speed.
//   - A flight belongs to the File, not to the reader that caused it. Its error goes to all who wait for it and is not remembered.
//   - An entry is removed as a whole, by renaming it, and only while nobody has it open.
//
// # The dangers
//
// The table is mapped. A page fault on a mapped file can fail (a bad disk, a file truncated by somebody), which arrives as
// SIGBUS; table.go turns it into "absent". Table space is allocated before it is mapped, so that a full disk is not among the causes.
//
// The folder belongs to one user of one machine: it is created with mode 0700, and words are in the machine's byte order.
package cache
