package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestAppendFloatReadsBack(t *testing.T) {
	for _, want := range []float64{0, 1, -1, 0.1, 1e-7, 1e21, 1.5e300, 1 << 53, 1<<53 - 1, math.MaxFloat64, math.SmallestNonzeroFloat64} {
		text, err := AppendFloat(nil, want)
		if err != nil {
			t.Fatalf("AppendFloat(%v): %v", want, err)
		}
		var got float64
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("AppendFloat(%v) = %s, read back as %v, %v", want, text, got, err)
		}
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if _, err := AppendFloat(nil, bad); err == nil {
			t.Errorf("AppendFloat(%v): no error", bad)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\x7f", "\xff\xfe", "日本語", "\u2028<>&", "a\xc3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(AppendString(nil, s), &got); err != nil {
			t.Fatalf("not JSON: %q: %v", AppendString(nil, s), err)
		}
		var want string
		if text, err := json.Marshal(s); err != nil || json.Unmarshal(text, &want) != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		text    string
		want    Reply
		refused bool
	}{
		{`{"type":"ok","id":"1","replyTo":"2","payload":{"a":[1,"}"]}}`, Reply{Type: []byte("ok"), ID: []byte("1"), ReplyTo: []byte("2"), Payload: []byte(`{"a":[1,"}"]}`)}, false},
		{` { "id" : 7 , "payload" : null } `, Reply{ID: []byte("7"), Payload: []byte("null")}, false},
		{`{"error":"","message":"a\"b","x":{"error":"y"}}`, Reply{Message: []byte(`a"b`)}, false},
		{`{"error":null}`, Reply{}, false},
		{`{"error":{"code":1}}`, Reply{Error: []byte(`{"code":1}`)}, true},
		{`{"type":"error"}`, Reply{Type: []byte("error")}, true},
		{`{"error":"no"}`, Reply{Error: []byte("no")}, true},
		{`{}`, Reply{}, false},
	} {
		var got Reply
		if err := got.Parse([]byte(tc.text)); err != nil {
			t.Errorf("Parse(%s): %v", tc.text, err)
			continue
		}
		if string(got.Type) != string(tc.want.Type) || string(got.ID) != string(tc.want.ID) || string(got.ReplyTo) != string(tc.want.ReplyTo) ||
			string(got.Error) != string(tc.want.Error) || string(got.Message) != string(tc.want.Message) || string(got.Payload) != string(tc.want.Payload) {
			t.Errorf("Parse(%s) = %q, want %q", tc.text, got, tc.want)
		}
		if got.Refused() != tc.refused {
			t.Errorf("Parse(%s).Refused() = %v, want %v", tc.text, got.Refused(), tc.refused)
		}
	}
	for _, bad := range []string{``, `[]`, `"x"`, `{`, `{"a"`, `{"a":}`, `{"a":1,}`, `{"a":1}x`, `{"a":"b`, `{"a":{`, `{a:1}`, `null`} {
		var r Reply
		if err := r.Parse([]byte(bad)); err == nil {
			t.Errorf("Parse(%s): no error", bad)
		}
	}
}

// What encoding/json accepts as an object with string fields, Parse reads the same way.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"type":"a","id":"b"}`, `{"id":"\u0041"}`, `{"payload":[{"a":"\\"}],"id":"x"}`, `{"type":1}`, `{{`, `{"a":"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r Reply
		err := r.Parse([]byte(text))
		var want map[string]json.RawMessage
		if json.Unmarshal([]byte(text), &want) != nil || want == nil {
			return // Parse may be more lenient; it must only not panic
		}
		if err != nil {
			t.Fatalf("Parse(%q): %v", text, err)
		}
		var id string
		if raw, ok := want["id"]; ok && json.Unmarshal(raw, &id) == nil && json.Valid([]byte(text)) && strings.ToValidUTF8(text, "") == text {
			if string(r.ID) != id {
				t.Fatalf("Parse(%q).ID = %q, want %q", text, r.ID, id)
			}
		}
	})
}
