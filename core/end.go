package core

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"
)

// End says that the handler has returned with the given status; 0 says that it wrote no answer of its own, which
// the server makes a 200. Where the answer goes through the call's Writer, what that has seen counts instead. Only the
// first End counts. The call is settled then, or when its hijacked connection is closed and its last Hold released.
//
// A client that has gone before it was answered, or in the middle of a response that tells the amount, has cut the
// work off: see Config.CutOff. End waits for no peer; of an encoded response whose amount is looked for, it waits for the rest to be
// decoded.
func (c *Call) End(status int) {
	if status == 0 {
		c.handlerReturned(http.StatusOK, false, false)
		return
	}
	c.handlerReturned(status, false, true)
}

// Run runs a handler that returns its status, as End takes it, and ends the call: by Abort where the handler panics, which goes on.
func (c *Call) Run(handler func() (status int)) {
	returned := false
	defer func() {
		if !returned {
			c.Abort()
		}
	}()
	status := handler()
	returned = true
	c.End(status)
}

// Abort says that the handler panicked: what was set or seen so far is charged, else nothing, and where the client has gone, what
// Config.CutOff says. It takes the place of End.
func (c *Call) Abort() { c.handlerReturned(http.StatusInternalServerError, true, true) }

func (c *Call) handlerReturned(status int, panicked, answered bool) {
	if c == nil {
		return
	}
	pathParams := c.flow.capturePathParams(c)
	c.mu.Lock()
	if c.returned {
		c.mu.Unlock()
		return
	}
	c.returned = true
	c.status, c.panicked = status, panicked
	if c.inner != nil {
		if c.outer.MultipartForm == nil {
			c.outer.MultipartForm = c.inner.MultipartForm // whose files the server removes
		}
		c.outer.Pattern = c.inner.Pattern
	}
	c.outer, c.inner = nil, nil
	if !answered && errors.Is(c.ctx.Context.Err(), context.DeadlineExceeded) {
		c.status = http.StatusServiceUnavailable // which is what others say then in the handler's place
	}
	if c.method != jobMethod && errors.Is(c.ctx.Context.Err(), context.Canceled) {
		c.cutOff = panicked || !answered || c.seen != nil
	}
	if c.request != nil {
		c.captured = c.flow.appendCaptured(pathParams, c)
		if !c.takeMemory(int64(cap(c.captured))) {
			c.captured = nil // the settlement is worth more
		}
		c.request = nil
	}
	c.finishLocked()
}

// Hold keeps the call open after its handler has returned, for work that outlives it: until release is called, amounts may
// be set, and nothing is settled. The request's context ends with its handler; context.WithoutCancel makes one that does not
// and still holds the call. Every release function must be called; calls after the first do nothing. One that nobody can
// call any more counts as called, and the log says so. On a call that has ended, and on nil, Hold does nothing.
func (c *Call) Hold() (release func()) {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return func() {}
	}
	c.holds++
	h := &hold{&holdState{call: c}}
	runtime.AddCleanup(h, (*holdState).lost, h.state)
	return h.release
}

// hold is what a release function refers to, and nothing else.
type hold struct{ state *holdState }

func (h *hold) release() {
	h.state.release()
	runtime.KeepAlive(h)
}

type holdState struct {
	call     *Call
	released atomic.Bool
}

func (s *holdState) release() bool {
	if s.released.Swap(true) {
		return false
	}
	s.call.mu.Lock()
	s.call.holds--
	s.call.finishLocked()
	return true
}

func (s *holdState) lost() {
	if s.release() {
		s.call.flow.log.Warn("usageflow: the release function of a Hold was thrown away without a call; the call ends now", "alias", s.call.alias)
	}
}

// finishLocked settles the call if its work is over. It gives mu back.
func (c *Call) finishLocked() {
	if !c.returned || c.hijacked || c.holds > 0 || c.finished {
		c.mu.Unlock()
		return
	}
	c.finished = true
	c.duration = time.Since(c.start)
	c.mu.Unlock()
	// Nobody else changes the call any more.
	if status := c.sentStatus.Load(); status != 0 && !c.panicked {
		c.status = int(status)
	}
	c.voided = !c.panicked && c.flow.callVoidStatus(c.status)
	if c.seen != nil {
		c.problem = c.seen.close()
		c.cutOff = c.cutOff && (c.panicked || !c.seen.whole())
	}
	c.flow.sender.finish(c)
}
