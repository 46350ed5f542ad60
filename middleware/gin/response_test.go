package usageflow_test

import (
	"bufio"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// serve is a gin application with one route, and what else stands before and behind the middleware.
func (a *app) serve(handler gin.HandlerFunc, before []gin.HandlerFunc, behind ...gin.HandlerFunc) *gin.Engine {
	r := gin.New()
	r.Use(before...)
	r.Use(usageflow.Middleware(a.flow))
	r.Use(behind...)
	r.Any("/x", handler)
	return r
}

// A panic is answered and settled, wherever gin.Recovery stands, and without it.
func TestPanics(t *testing.T) {
	for name, tc := range map[string]struct {
		before, behind []gin.HandlerFunc
		value          any
		set            bool
		want           float64
	}{
		"recovery before":            {[]gin.HandlerFunc{gin.Recovery()}, nil, "boom", false, 0},
		"recovery before, set":       {[]gin.HandlerFunc{gin.Recovery()}, nil, "boom", true, 4},
		"no recovery":                {nil, nil, "boom", false, 0},
		"abort":                      {[]gin.HandlerFunc{gin.Recovery()}, nil, http.ErrAbortHandler, false, 0},
		"abort, no recovery":         {nil, nil, http.ErrAbortHandler, false, 0},
		"recovery behind: a 500":     {nil, []gin.HandlerFunc{gin.Recovery()}, "boom", false, 1},
		"recovery behind, a set 500": {nil, []gin.HandlerFunc{gin.Recovery()}, "boom", true, 4},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, nil)
			ts := a.listen(a.serve(func(c *gin.Context) {
				if tc.set {
					core.FromContext(c.Request.Context()).SetAmount(4)
				}
				panic(tc.value)
			}, tc.before, tc.behind...))
			resp, err := ts.Client().Get(ts.URL + "/x")
			switch {
			case err == nil:
				_ = resp.Body.Close()
				if resp.StatusCode != 500 && tc.value == "boom" {
					t.Errorf("got %d", resp.StatusCode)
				}
			case len(tc.before)+len(tc.behind) > 0:
				t.Error(err)
			}
			if u := a.uses(1); u[0].Amount != tc.want || u[0].Metadata["responseStatusCode"] != 500.0 {
				t.Errorf("amount %v, metadata %v", u[0].Amount, u[0].Metadata)
			}
		})
	}
}

// A stream's last event tells the amount, and each event arrives as it is written.
func TestServerSentEvents(t *testing.T) {
	a := newApp(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "POST", URL: "/x", ResponseTrackingField: "usage.total_tokens", IsResponseTrackingEnabled: true})
	})
	read := make(chan struct{})
	ts := a.listen(a.serve(func(c *gin.Context) {
		c.SSEvent("delta", gin.H{"text": "hi"})
		c.Writer.Flush()
		<-read
		c.SSEvent("end", gin.H{"usage": gin.H{"total_tokens": 321}})
		_, _ = c.Writer.WriteString("data: [DONE]")
	}, nil))
	resp, err := ts.Client().Post(ts.URL+"/x", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); line != "event:delta\n" {
		t.Errorf("got %q, %v", line, err)
	}
	close(read)
	if rest, err := io.ReadAll(lines); !strings.HasSuffix(string(rest), "data: [DONE]") {
		t.Errorf("got %q, %v", rest, err)
	}
	if u := a.uses(1); u[0].Amount != 321 {
		t.Errorf("amount %v", u[0].Amount)
	}
}

// Handlers that write nothing, a status only, JSON or a file.
func TestAnswers(t *testing.T) {
	a := newApp(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "*", URL: "/x", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	file := t.TempDir() + "/f.json"
	if err := os.WriteFile(file, []byte(`{"n":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		handler gin.HandlerFunc
		status  float64
		body    string
		amount  float64
	}{
		{func(*gin.Context) {}, 200, "", 1},
		{func(c *gin.Context) { c.Status(http.StatusAccepted) }, 202, "", 1},
		{func(c *gin.Context) { c.JSON(http.StatusTeapot, gin.H{"n": 6}) }, 418, `{"n":6}`, 6},
		{func(c *gin.Context) { c.AbortWithStatusJSON(http.StatusConflict, gin.H{"n": 2}) }, 409, `{"n":2}`, 2},
		{func(c *gin.Context) { c.File(file) }, 200, `{"n":9}`, 9},
		{func(c *gin.Context) { c.Redirect(http.StatusNotModified, "/y") }, 304, "", 1},
	} {
		ts := a.listen(a.serve(tc.handler, nil))
		resp, body := a.send(ts, "GET", "/x", nil)
		if float64(resp.StatusCode) != tc.status || body != tc.body {
			t.Errorf("answer %d: got %d %s", i, resp.StatusCode, body)
		}
		if u := a.uses(i + 1)[i]; u.Amount != tc.amount || u.Metadata["responseStatusCode"] != tc.status {
			t.Errorf("answer %d: amount %v, metadata %v", i, u.Amount, u.Metadata)
		}
	}
}

// What writers of gin can do, they can do behind the middleware.
func TestResponseController(t *testing.T) {
	a := newApp(t, nil)
	ts := a.listen(a.serve(func(c *gin.Context) {
		rc := http.NewResponseController(c.Writer)
		if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Now().Add(time.Hour)), rc.EnableFullDuplex(), rc.Flush()); err != nil {
			t.Error(err)
		}
		if c.Writer.Pusher() != nil {
			t.Error("HTTP/1 cannot push")
		}
		c.String(200, "ok")
	}, nil))
	if _, body := a.send(ts, "GET", "/x", nil); body != "ok" {
		t.Errorf("got %q", body)
	}
	a.uses(1)
}

// A WebSocket is settled when it is closed, also where its handler has returned before.
func TestWebSocket(t *testing.T) {
	for _, returns := range []bool{false, true} {
		a := newApp(t, nil)
		returned := make(chan struct{})
		ts := a.listen(a.serve(func(c *gin.Context) {
			ws, err := (&websocket.Upgrader{}).Upgrade(c.Writer, c.Request, nil)
			if err != nil {
				t.Error(err)
				return
			}
			call := core.FromContext(c.Request.Context())
			talk := func() {
				defer ws.Close()
				for {
					kind, text, err := ws.ReadMessage()
					if err != nil {
						return
					}
					call.AddAmount(float64(len(text)))
					_ = ws.WriteMessage(kind, text)
				}
			}
			if returns {
				go talk()
			} else {
				talk()
			}
		}, []gin.HandlerFunc{func(c *gin.Context) { c.Next(); close(returned) }}))
		ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(ts.URL, "http")+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if returns {
			<-returned
		}
		for range 3 {
			_ = ws.WriteMessage(websocket.TextMessage, []byte("hello"))
			if _, text, err := ws.ReadMessage(); string(text) != "hello" {
				t.Errorf("got %q, %v", text, err)
			}
		}
		if s := a.flow.Stats(); s.Pending != 1 {
			t.Errorf("stats %+v", s)
		}
		_ = ws.Close()
		if u := a.uses(1); u[0].Amount != 15 {
			t.Errorf("amount %v", u[0].Amount)
		}
		<-returned
	}
}

// The files of an upload are removed when its request has ended.
func TestUploadedFilesAreRemoved(t *testing.T) {
	a := newApp(t, nil)
	name := ""
	r := a.serve(func(c *gin.Context) {
		if err := c.Request.ParseMultipartForm(0); err != nil {
			t.Error(err)
			return
		}
		f, err := c.Request.MultipartForm.File["f"][0].Open()
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if file, ok := f.(*os.File); ok {
			name = file.Name()
		}
	}, nil)
	ts := a.listen(r)
	body, upload := io.Pipe()
	form := multipart.NewWriter(upload)
	go func() {
		part, _ := form.CreateFormFile("f", "f")
		_, _ = io.WriteString(part, strings.Repeat("x", 11<<20)) // more than is kept in memory
		_ = form.Close()
		_ = upload.Close()
	}()
	a.send(ts, "POST", "/x", body, "Content-Type", form.FormDataContentType())
	a.uses(1)
	ts.Close() // waits until the request is over
	if _, err := os.Stat(name); name == "" || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file %q: %v", name, err)
	}
}

// Denied and blocked requests end there: no handler behind runs, and middleware before sees the status.
func TestDenialEndsTheChain(t *testing.T) {
	a := newApp(t, func(s *sockettest.Server) { s.SetBlocked(sockettest.Endpoint{Method: "*", URL: "*"}) })
	seen := 0
	ts := a.listen(a.serve(func(*gin.Context) { t.Error("the handler ran") },
		[]gin.HandlerFunc{func(c *gin.Context) { c.Next(); seen = c.Writer.Status() }},
		func(*gin.Context) { t.Error("middleware behind ran") }))
	resp, _ := a.send(ts, "GET", "/x", nil)
	if resp.StatusCode != 403 || seen != 403 || resp.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Errorf("got %d, seen %d, %v", resp.StatusCode, seen, resp.Header)
	}
}
