package service_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
)

const (
	// requireChromium makes a missing browser a failure.
	requireChromium = "USAGEFLOW_REQUIRE_CHROMIUM"
	// screenshots names a folder for pictures of each page.
	screenshots = "USAGEFLOW_SCREENSHOTS"
)

// browser is a real Chromium with one tab. Its methods end the test when something fails.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // errors in the browser's log, exceptions, and requests to other hosts
}

func openBrowser(t *testing.T, base string) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		const hint = "Chromium is not installed: apt-get install chromium"
		if os.Getenv(requireChromium) != "" {
			t.Fatal(hint)
		}
		t.Skip(hint)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil { // starts the browser
		t.Fatal(err)
	}
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.problem("exception: " + e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError && !strings.Contains(e.Entry.Text, "status of 401") { // the wrong token
				b.problem("log: " + e.Entry.Text + " " + e.Entry.URL)
			}
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, base) {
				b.problem("a request to " + e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.do(func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, errNetwork := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
		_, errLog := cdp.Call(ctx, t, log.Enable, cdp.Empty{})
		return chromedp.Void{}, errors.Join(errNetwork, errLog)
	})
	return b
}

func (b *browser) problem(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, text)
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	look(b, chromedp.Steps(actions...))
}

// look does one action and returns what it finds.
func look[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("the browser: %v; %q", err, b.problems)
	}
	return value
}

// see waits until the element is visible.
func (b *browser) see(selector string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(selector))
}

// click waits until the element is there, enabled, and what is hit in its middle, and clicks it in the same moment: a page that draws
// itself again in between has another element.
func (b *browser) click(selector string) {
	b.t.Helper()
	look(b, chromedp.Poll[bool](fmt.Sprintf(`(() => {
		const node = document.querySelector(%q);
		if (!node || node.disabled) return false;
		node.scrollIntoView({block: "center", behavior: "instant"});
		const box = node.getBoundingClientRect();
		const hit = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
		if (!hit || !node.contains(hit)) return false;
		node.click();
		return true;
	})()`, selector)))
}

func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(selector), chromedp.Clear(selector), chromedp.SendKeys(selector, text))
}

// choose sets a select as a person would.
func (b *browser) choose(selector, value string) {
	b.t.Helper()
	b.see(selector)
	if !look(b, chromedp.Evaluate[bool](fmt.Sprintf(`(() => {
		const node = document.querySelector(%q);
		node.value = %q;
		node.dispatchEvent(new Event("change", {bubbles: true}));
		return node.value === %q;
	})()`, selector, value, value))) {
		b.t.Fatalf("%s has no %s", selector, value)
	}
}

func test(name string) string { return `[data-test="` + name + `"]` }

// TestConsole does in a real browser what people do in the console.
func TestConsole(t *testing.T) {
	r, _ := startEditable(t, example)
	base := "http://" + r.addr + "/"
	b := openBrowser(t, base)
	agent := r.dial(t, "uf_other_key")

	// Sign in.
	b.do(chromedp.Navigate(base))
	b.fill(test("token"), "wrong")
	b.click(test("sign-in-submit"))
	b.see(test("sign-in-error"))
	b.fill(test("token"), adminToken)
	b.click(test("sign-in-submit"))
	b.see(`[data-page="overview"]`)
	if cookies := look(b, chromedp.Evaluate[string](`document.cookie`)); cookies != "" {
		t.Errorf("scripts can read the cookie: %q", cookies)
	}

	// Create a policy.
	b.click(test("nav-policies"))
	b.see(test("policies"))
	b.choose(test("application-filter"), "other")
	b.click(test("create-policy"))
	b.fill(test("policy-url"), "/console")
	b.fill(test("limit-amount"), "2")
	b.click(test("policy-submit"))
	b.see(test("policy") + `[data-name="GET /console"]`)

	// Try a request against it.
	b.fill(test("match-url"), "/console")
	b.click(test("match-submit"))
	b.see(test("match-policy"))

	// Watch a denial appear live.
	b.click(test("nav-events"))
	b.see(test("stream-state"))
	for i := range 3 {
		a := ask(t, agent, reserveText("1", "GET /console", fmt.Sprint("console-", i), 1))
		if denied := a.Error != ""; denied != (i == 2) {
			t.Fatalf("reservation %d: %+v", i, a)
		}
	}
	b.see(test("event") + `[data-type="denied"]`)

	// Of a request and its job, see both, and nothing else; then all again.
	for i, alias := range []string{"POST /jobs ann", "JOB resize ann", "POST /jobs bob"} {
		id := `"3f2a9c04-5b1e-4d7a-9c11-0a6a5b7c8d9e"`
		if i == 2 {
			id = `"a0000000-5b1e-4d7a-9c11-0a6a5b7c8d9e"`
		}
		ask(t, agent, useOf(alias, fmt.Sprint("job-", i), 1, id))
	}
	requests := `[...document.querySelectorAll("[data-test=event] .request code")].map((node) => node.textContent).join()`
	look(b, chromedp.Poll[bool](requests+` === "a0000000,3f2a9c04,3f2a9c04"`))
	if name := look(b, chromedp.Evaluate[string](`document.querySelectorAll("[data-test=request]")[1].ariaLabel`)); name != "Events of request 3f2a9c04-5b1e-4d7a-9c11-0a6a5b7c8d9e" {
		t.Errorf("the link to a request is called %q", name)
	}
	link := test("request") + `[href$="3f2a9c04-5b1e-4d7a-9c11-0a6a5b7c8d9e"]`
	b.do(chromedp.SendKeys(link, "\r"))
	b.see(test("request-filter"))
	look(b, chromedp.Poll[bool](requests+` === "3f2a9c04,3f2a9c04" && document.querySelectorAll("[data-test=event]").length === 2`))
	look(b, chromedp.Poll[bool](`document.activeElement.textContent === "Events of one request"`))
	b.do(chromedp.EmulateViewport(360, 900))
	if look(b, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`)) {
		t.Error("the events of a request are wider than 360 px")
	}
	b.do(chromedp.EmulateViewport(1280, 900))
	b.click(test("request-clear"))
	b.see(test("event") + `[data-type="denied"]`)
	look(b, chromedp.Poll[bool](`!document.querySelector("[data-test=request-filter]") && !location.hash.includes("request")`))

	// Rotate the key.
	b.click(test("nav-applications"))
	card := test("application") + `[data-name="other"] `
	b.click(card + test("rotate-key"))
	b.click(test("key-submit"))
	b.see(test("new-key"))
	key := look(b, chromedp.Value(test("new-key")))
	b.click(test("key-done"))
	if a := ask(t, r.dial(t, key), reserveText("1", "GET /x", "with-the-new-key", 1)); a.Error != "" {
		t.Errorf("the new key: %+v", a)
	}
	b.click(card + test("key") + `[data-prefix^="uf_oth"] ` + test("revoke-key"))
	b.click(test("revoke-key-submit"))
	if _, _, err := agent.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("the revoked key's connection: %v", err)
	}
	if _, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {"uf_other_key"}}); err == nil || resp == nil || resp.StatusCode != 401 {
		t.Errorf("the revoked key: %v", err)
	}

	if dir := os.Getenv(screenshots); dir != "" {
		busy := r.dial(t, "uf_dev_key")
		for i := range 200 { // something to see
			alias, id := "GET /api/reports customer-"+strconv.Itoa(i%23), fmt.Sprint("seen-", i)
			if a := ask(t, busy, reserveText("1", alias, id, 1)); a.Error == "" && i%9 != 0 {
				ask(t, busy, useText("2", alias, id, float64(i%3)))
			}
		}
		b.photograph(dir, base)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) > 0 {
		t.Errorf("the browser reports %q", b.problems)
	}
}

// photograph writes a picture of each page, at each width, in light and in dark, and fails where a page is wider than the
// window.
func (b *browser) photograph(dir, base string) {
	b.t.Helper()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		b.t.Fatal(err)
	}
	for _, page := range []string{"overview", "ledgers", "ledger?application=acme&alias=GET%20/api/reports%20customer-3", "policies?application=acme", "blocked", "applications", "events"} {
		name, _, _ := strings.Cut(page, "?")
		for _, width := range []int64{360, 1024, 1920} {
			for _, scheme := range []string{"light", "dark"} {
				b.do(func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
					_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
					return chromedp.Void{}, err
				}, chromedp.EmulateViewport(width, 900), chromedp.Navigate(base+"#/"+page), chromedp.WaitVisible(`[data-page="`+name+`"] h1`))
				look(b, chromedp.Poll[bool](`![...document.querySelectorAll("main .skeleton")].some((node) => node.offsetParent)`)) // the data has come
				if look(b, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > innerWidth`)) {
					b.t.Errorf("%s is wider than %d px", name, width)
				}
				shoot := chromedp.FullScreenshot(85)
				if name == "events" { // there are many
					shoot = chromedp.CaptureScreenshot()
				}
				picture := look(b, shoot)
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.jpg", name, width, scheme)), picture, 0o600); err != nil {
					b.t.Fatal(err)
				}
			}
		}
	}
}
