// Package waltest has a disk in memory that loses what a real one may lose in a crash.
package waltest

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
)

// ErrCrashed is what every operation returns after the crash.
var ErrCrashed = errors.New("the disk has crashed")

// sector is what a disk writes whole or not at all.
const sector = 512

// Disk is a folder on a disk that crashes. Its methods are safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	names   map[string]*file
	renames []func(map[string]*file) // what has happened to names since they were durable
	durable map[string]*file
	left    int // operations until the crash; negative: there is none
	fault   func(op, name string) error
}

// file is a file's bytes, and what became of them since they were durable.
type file struct {
	data    []byte
	durable []byte
	changes []change
}

// change is a write, or a cut where data is nil.
type change struct {
	at   int
	data []byte
}

// New returns an empty disk that crashes with its n-th change from now on, or, where n is negative, never.
func New(n int) *Disk {
	return &Disk{names: map[string]*file{}, durable: map[string]*file{}, left: n}
}

var _ wal.Files = (*Disk)(nil)

// Fault has f decide whether an operation fails; it is one of "write", "sync", "create", "rename", "remove".
func (d *Disk) Fault(f func(op, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Crashed reports whether the crash has come.
func (d *Disk) Crashed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left == 0
}

// step counts a change. The caller holds mu.
func (d *Disk) step(op, name string) error {
	if d.left == 0 {
		return ErrCrashed
	}
	if d.fault != nil {
		if err := d.fault(op, name); err != nil {
			return err
		}
	}
	if d.left > 0 {
		d.left--
	}
	if d.left == 0 {
		return ErrCrashed
	}
	return nil
}

// AfterCrash returns what is found after the crash, as a disk that crashes with its n-th change. Where the machine has crashed, rng
// decides what of that which was not durable is left: of the names some of the last changes may be missing, of the files any sectors.
// A process that crashes loses nothing.
func (d *Disk) AfterCrash(rng *rand.Rand, machine bool, n int) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := New(n)
	names := d.names
	if machine {
		names = maps.Clone(d.durable)
		for _, rename := range d.renames[:rng.IntN(len(d.renames)+1)] {
			rename(names)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		data := slices.Clone(f.data)
		if machine {
			data = f.torn(rng)
		}
		kept := &file{data: data, durable: slices.Clone(data)}
		after.names[name], after.durable[name] = kept, kept
	}
	return after
}

// torn is what a crash of the machine leaves of f.
func (f *file) torn(rng *rand.Rand) []byte {
	data := slices.Clone(f.durable)
	for _, c := range f.changes {
		if c.data == nil {
			if rng.IntN(2) == 0 {
				data = data[:min(len(data), c.at)]
			}
			continue
		}
		for from := 0; from < len(c.data); {
			to := min(len(c.data), from+sector-(c.at+from)%sector)
			if rng.IntN(2) == 0 {
				data = put(data, c.at+from, c.data[from:to])
			}
			from = to
		}
	}
	return data
}

func put(data []byte, at int, more []byte) []byte {
	if missing := at + len(more) - len(data); missing > 0 {
		data = append(data, make([]byte, missing)...)
	}
	copy(data[at:], more)
	return data
}

// Names implements wal.Files.
func (d *Disk) Names() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

// Read implements wal.Files.
func (d *Disk) Read(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return slices.Clone(f.data), nil
}

// Damage changes a byte of a file that is there.
func (d *Disk) Damage(name string, at int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[name].data[at] ^= 0x55
}

// Open implements wal.Files.
func (d *Disk) Open(name string, create bool) (wal.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !create {
		if f := d.names[name]; f != nil {
			return &handle{d, f, name}, nil
		}
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err := d.step("create", name); err != nil {
		return nil, err
	}
	f := &file{}
	d.rename(func(names map[string]*file) { names[name] = f })
	return &handle{d, f, name}, nil
}

// rename carries out a change of names. The caller holds mu.
func (d *Disk) rename(change func(map[string]*file)) {
	change(d.names)
	d.renames = append(d.renames, change)
}

// Rename implements wal.Files.
func (d *Disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename", from); err != nil {
		return err
	}
	f := d.names[from]
	if f == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	d.rename(func(names map[string]*file) {
		names[to] = f
		delete(names, from)
	})
	return nil
}

// Remove implements wal.Files.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove", name); err != nil {
		return err
	}
	if d.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	d.rename(func(names map[string]*file) { delete(names, name) })
	return nil
}

// Sync implements wal.Files.
func (d *Disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("sync", "."); err != nil {
		return err
	}
	d.durable, d.renames = maps.Clone(d.names), nil
	return nil
}

// handle is an open file.
type handle struct {
	d    *Disk
	f    *file
	name string
}

func (h *handle) WriteAt(data []byte, offset int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	err := h.d.step("write", h.name)
	if err != nil && !errors.Is(err, ErrCrashed) {
		return 0, err
	}
	h.f.changes = append(h.f.changes, change{int(offset), slices.Clone(data)}) // some of it may get there before the crash
	h.f.data = put(h.f.data, int(offset), data)
	return len(data), err
}

func (h *handle) Truncate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.step("write", h.name); err != nil {
		return err
	}
	h.f.changes = append(h.f.changes, change{at: int(size)})
	h.f.data = h.f.data[:min(len(h.f.data), int(size))]
	return nil
}

func (h *handle) Sync() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.d.step("sync", h.name); err != nil {
		return err
	}
	h.f.durable, h.f.changes = slices.Clone(h.f.data), nil
	return nil
}

func (h *handle) Close() error { return nil }
