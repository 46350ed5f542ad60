package sockettest_test

import (
	"bytes"
	"errors"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestOutage(t *testing.T) {
	for _, opts := range [][]sockettest.Option{nil, {sockettest.WithInMemory()}} {
		srv := sockettest.New(t, opts...)
		url := srv.URL
		c := dial(t, srv)
		srv.Stop()
		srv.Stop()
		if err := c.readError(); err == nil {
			t.Error("the connection outlived Stop")
		}
		if _, err := srv.Dial(t.Context(), "", ""); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial while stopped: %v, want connection refused", err)
		}
		if err := errors.Join(srv.Start(), srv.Start()); err != nil {
			t.Fatal(err)
		}
		if srv.URL != url {
			t.Errorf("URL = %s, was %s", srv.URL, url)
		}
		dial(t, srv).call(reserve("1", "GET /a", "a"))
		srv.Close()
		if srv.Start() == nil {
			t.Error("Start after Close succeeded")
		}
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	srv := sockettest.New(t)
	never := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply { return sockettest.Default().After(never) })
	dial(t, srv).send(reserve("1", "GET /a", "a"))
	dial(t, srv).send(reserve("2", "GET /a", "b"))
	srv.StopReading(2)
	idle, err := srv.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	wait(t, srv, func(r *sockettest.Record) bool { return r.Count() >= 1 && r.Conns() == 2 })
	srv.Close()
	srv.Close()
	// A goroutine that has said that it is done may still have its last instruction to run.
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(stacks, []byte("sockettest.(*")) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left after Close:\n%s", stacks)
		}
	}
}
