package socket

import (
	"encoding/json"
	"math"
	"reflect"
	"testing"
)

// The hand-written encoding is the one that encoding/json makes of the same types.
func TestAppendMessageEqualsEncodingJSON(t *testing.T) {
	meta := map[string]any{"a": 1.5, "b": []any{"x", nil}, "c": map[string]any{"d": "é\"\n"}}
	for _, payload := range []any{
		nil,
		"text", 5, []string{"a"}, map[string]any{"k": true}, json.RawMessage(`{"x": 1}`),
		&RequestForAllocation{Alias: "GET /a b", Amount: 1},
		RequestForAllocation{Alias: "é\u2028<\"", Amount: 0.25, Metadata: meta, AllocationID: "id"},
		&UseAllocationRequest{Alias: "x", Amount: 0, AllocationID: "id"},
		UseAllocationRequest{Amount: 1e30, WaitForConfirmation: true, Metadata: meta},
		(*RequestForAllocation)(nil), (*UseAllocationRequest)(nil),
	} {
		for _, id := range []string{"", "x\"y"} {
			got, err := appendMessage(nil, "some_type", payload, id)
			if err != nil {
				t.Fatalf("appendMessage(%#v): %v", payload, err)
			}
			want, err := json.Marshal(UsageFlowSocketMessage{Type: "some_type", Payload: payload, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			var gotAny, wantAny any
			if err := json.Unmarshal(got, &gotAny); err != nil {
				t.Fatalf("%s: %v", got, err)
			}
			if err := json.Unmarshal(want, &wantAny); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(gotAny, wantAny) {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
}

func TestAppendMessageRejectsWhatJSONCannotHold(t *testing.T) {
	for _, payload := range []any{
		&RequestForAllocation{Amount: math.NaN()},
		&UseAllocationRequest{Amount: math.Inf(1)},
		&UseAllocationRequest{Metadata: map[string]any{"f": func() {}}},
		make(chan int),
	} {
		if text, err := appendMessage(nil, "t", payload, ""); err == nil {
			t.Errorf("appendMessage(%T) = %s, want an error", payload, text)
		}
	}
}

func FuzzDecodePayload(f *testing.F) {
	for _, s := range []string{`{"allocationId":"a-b","limit":5,"ok":true}`, `{"a":1.5}`, `{"a":"\u00e9"}`, `{"a":01}`, `{"a":"b`, `[1]`, `{"a":{"b":1}}`, `{"a":-1,"a":2}`, "{\"\xff\":1}", `{"\u0061":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !json.Valid(text) {
			return
		}
		got, err := decodePayload(text)
		var want any
		if wantErr := json.Unmarshal(text, &want); wantErr != nil {
			return
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("decodePayload(%s) = %#v, %v; want %#v", text, got, err, want)
		}
	})
}
