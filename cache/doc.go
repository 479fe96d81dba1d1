// Package cache keeps the bytes of image files that were fetched and decoded, so that no span is
// fetched twice on one machine.
//
// # The concept
//
// A cache is a folder that holds
//
//	files/ID/          an entry for each image file, named by the SHA-256 of its key
//	shelves/NAME/      documents that belong to no entry
//	scratch/           temporary files, each locked by its process
//	trash/             entries that are being removed
//	usage              the account of all bytes, by which all processes keep one limit
//
// and an entry is a folder that holds
//
//	data       the decoded bytes, at their own offsets, in a sparse file; pages of zeros are holes
//	table      a uint32 for each 4 KiB page of data: 0 = absent, else a word made of its CRC32C
//	edges      16 bytes for each page, used only where two spans share the page and one is missing
//	fills      empty; the byte ranges that are being fetched are locked in it
//	epoch      two random values, replaced before pages are made absent
//	lock       empty; locked shared while the entry is open; its mtime is the last use
//	meta.json  format version, key, name, size, time of creation
//	rec-NAME   the caller's own records, such as a stream's index
//
// A Source decodes spans, the units that cannot be divided; a File stores the decoded bytes in data
// and table and serves reads from there. Spans need not start or end on a page, and the cache
// relies on no span layout: layouts may differ between processes, and change while a stream is
// walked. It stores pages, and asks for the spans that cover absent ones.
//
// # The rules
//
//   - A page's bytes are written before its word is stored. Nothing is synced.
//   - A page is served from the file only if its bytes match its word. This one check stands for
//     all that can go wrong below: a crash between the two writes, writes lost in a power failure,
//     torn pages, flipped bits, a damaged table. A page that does not match is absent: its word is
//     cleared and its span fetched again. A word of 32 bits misses a random damage once in 4e9.
//   - A page can have one content only, whichever process stores it. Therefore two processes may
//     write the same page at the same time, and a file that was verified stays so.
//   - One flight fetches a span, for all goroutines and processes that wait for it (flight.go). In
//     the process flights are told apart by the interval of bytes that they will pass; between
//     processes by a lock on the same interval of the file fills, which the kernel drops when its
//     holder dies.
//   - Readers that wait for a flight of their own process are served from its memory. So a full
//     disk costs only speed.
//   - A flight belongs to the File, not to the reader that caused it. All readers that wait for it
//     get its error, which is not remembered.
//   - An entry is removed as a whole, by renaming it, and only while nobody has it open.
//   - Records, documents, sizes and the account carry checks over all of their bytes, bound to their
//     place. If one is damaged, missing or copied from elsewhere, it counts as absent.
//   - A page is never made absent before all processes can see that one was lost (epoch.go).
//   - All bytes count against one limit, those of
//     open entries and temporary files included. At the limit the least recently used entries go;
//     if all are open, reads go on and nothing more is kept.
//
// # The dangers
//
// The table is mapped. A page fault on a mapped file can fail (a bad disk, a file truncated by
// somebody), which arrives as SIGBUS; table.go turns it into "absent". Table space is allocated
// before it is mapped, so that a full disk is not among the causes.
//
// A file that Backing handed out is read without these checks. Backing says when that ends.
//
// The checks are kept beside the bytes, so they protect from damage and not from another user, who
// could forge both. Therefore the folder belongs to one user of one machine: it is created with
// mode 0700, and refused if others own it or may write to it.
//
// Words are in the machine's byte order.
package cache
