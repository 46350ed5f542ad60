package socket_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// completion records what became of posts.
type completion struct {
	mu      sync.Mutex
	payload []string
	errs    []error
	notify  chan struct{} // capacity 1
	then    func()        // called by the first Complete
}

func newCompletion() *completion { return &completion{notify: make(chan struct{}, 1)} }

func (c *completion) Complete(r *wire.Reply, err error) {
	c.mu.Lock()
	if r != nil {
		c.payload = append(c.payload, string(r.Payload))
	}
	c.errs = append(c.errs, err)
	then := c.then
	c.then = nil
	c.mu.Unlock()
	if then != nil {
		then()
	}
	select {
	case c.notify <- struct{}{}:
	default:
	}
}

func (c *completion) results() ([]string, []error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.payload...), append([]error(nil), c.errs...)
}

func (c *completion) await(t *testing.T) (string, error) {
	t.Helper()
	select {
	case <-c.notify:
	case <-time.After(10 * time.Second):
		t.Fatal("not completed")
	}
	payload, errs := c.results()
	if len(errs) != 1 {
		t.Fatalf("completed %d times", len(errs))
	}
	return fmt.Sprint(payload), errs[0]
}

func lane(t *testing.T, m *socket.UsageFlowSocketManager) wire.Lane {
	t.Helper()
	l, err := m.Lane(t.Context())
	if err != nil {
		t.Fatalf("Lane: %v", err)
	}
	return l
}

func TestALaneKeepsTheOrder(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
	connect(t, m)
	const lanes, posts = 6, 500
	var wg sync.WaitGroup
	var done sync.WaitGroup
	for l := range lanes {
		lane := lane(t, m)
		wg.Go(func() {
			payload := make([]byte, 0, 64)
			for i := range posts {
				id := ""
				if i%2 == 1 {
					id = fmt.Sprintf("%d-%d", l, i)
				}
				payload = strconv.AppendInt(payload[:0], int64(i), 10) // the caller may use its memory again
				done.Add(1)
				c := newCompletion()
				c.then = done.Done
				if err := lane.Post("lane"+strconv.Itoa(l), id, payload, c); err != nil {
					t.Errorf("Post: %v", err)
					done.Done()
				}
			}
		})
	}
	wg.Wait()
	done.Wait()
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == lanes*posts })
	for l := range lanes {
		got := srv.Messages("lane" + strconv.Itoa(l))
		for i, message := range got {
			if string(message.Payload) != strconv.Itoa(i) || message.Conn != got[0].Conn {
				t.Fatalf("lane %d: message %d is %s on connection %d", l, i, message.Payload, message.Conn)
			}
		}
	}
}

func TestLaneCompletions(t *testing.T) {
	srv := sockettest.New(t)
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == "silent" {
			return sockettest.Silence()
		}
		return sockettest.OK(map[string]any{"n": 1})
	})
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
	l := lane(t, m)
	if !l.Alive() {
		t.Error("a new lane is not alive")
	}
	replied, written, inReader, lost := newCompletion(), newCompletion(), newCompletion(), newCompletion()
	replied.then = func() { // a completion may post
		if err := l.Post("again", "2", []byte("{}"), inReader); err != nil {
			t.Errorf("Post from a completion: %v", err)
		}
	}
	for _, post := range []struct {
		typ, id string
		done    wire.Completion
	}{{"t", "1", replied}, {"t", "", written}, {"t", "", nil}, {"t", "nobody waits", nil}, {"silent", "3", lost}} {
		if err := l.Post(post.typ, post.id, []byte(`{"x":1}`), post.done); err != nil {
			t.Fatalf("Post: %v", err)
		}
	}
	if payload, err := replied.await(t); payload != `[{"n":1}]` || err != nil {
		t.Errorf("a post with an id: %s, %v", payload, err)
	}
	if payload, err := inReader.await(t); payload != `[{"n":1}]` || err != nil {
		t.Errorf("a post from a completion: %s, %v", payload, err)
	}
	if payload, err := written.await(t); payload != `[]` || err != nil {
		t.Errorf("a post without an id: %s, %v, want nothing", payload, err)
	}
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count("silent") == 1 })
	srv.Stop()
	_, err := lost.await(t)
	if !errors.Is(err, socket.ErrConnectionLost) {
		t.Errorf("a post whose connection is gone: %v, want ErrConnectionLost", err)
	}
	isNotATimeout(t, err)
	if l.Alive() {
		t.Error("a lane is alive after its connection")
	}
	if err := l.Post("t", "4", nil, newCompletion()); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("Post on a lane that is over = %v, want ErrNotConnected", err)
	}
	if _, err := m.Lane(t.Context()); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("Lane = %v, want ErrNotConnected", err)
	}
}

// Of the posts that were never written each is told so; none moves, for its order would be lost.
func TestUnwrittenPostsAreCompletedOnce(t *testing.T) {
	srv := sockettest.New(t)
	pool := newStuckPool(srv)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, Dial: pool.Dial})
	l := lane(t, m)
	c := <-pool.first
	c.takes.Store(3)
	first := newCompletion()
	c.hang(t, func() {
		if err := l.Post("first", "", []byte("1"), first); err != nil {
			t.Error(err)
		}
	})
	var unwritten []*completion
	for i := range 20 {
		done := newCompletion()
		id := ""
		if i%2 == 0 {
			id = strconv.Itoa(i)
		}
		if err := l.Post("queued", id, []byte("1"), done); err != nil {
			t.Fatalf("Post: %v", err)
		}
		unwritten = append(unwritten, done)
	}
	close(pool.more)
	connect(t, m)
	c.release <- io.ErrClosedPipe
	if _, err := first.await(t); !errors.Is(err, socket.ErrConnectionLost) {
		t.Errorf("the post that was half written: %v, want ErrConnectionLost", err)
	}
	for _, done := range unwritten {
		if _, err := done.await(t); !errors.Is(err, socket.ErrNotConnected) {
			t.Errorf("a post that was not written: %v, want ErrNotConnected", err)
		}
	}
	if _, err := m.SendAsync(reservation()); err != nil {
		t.Errorf("SendAsync: %v", err)
	}
	if got := srv.Count("queued"); got != 0 {
		t.Errorf("%d posts moved to another connection", got)
	}
}

func TestAPostReplacesItsTwin(t *testing.T) {
	srv := sockettest.New(t)
	ready := make(chan struct{})
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.OK(nil).After(ready) })
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
	l := lane(t, m)
	done := newCompletion()
	for range 3 {
		if err := l.Post("t", "same", []byte("1"), done); err != nil {
			t.Fatalf("Post: %v", err)
		}
	}
	if err := l.Post("t", "same", []byte("1"), newCompletion()); !errors.Is(err, socket.ErrDuplicateID) {
		t.Errorf("Post with another completion = %v, want ErrDuplicateID", err)
	}
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 3 })
	if got := pending(m); got != 1 {
		t.Errorf("%d pending, want 1", got)
	}
	close(ready)
	if _, err := done.await(t); err != nil {
		t.Errorf("completed with %v", err)
	}
	if _, err := m.SendAsync(reservation()); err != nil { // after the two replies that answer nothing
		t.Errorf("SendAsync: %v", err)
	}
	if _, errs := done.results(); len(errs) != 1 {
		t.Errorf("completed %d times, want once", len(errs))
	}
	if got := pending(m); got != 0 {
		t.Errorf("%d pending, want 0", got)
	}
}
