package fake

import "testing"

func TestScan(t *testing.T) {
	tests := []struct {
		in                  string
		typ, id, allocation string
		ok                  bool
	}{
		{`{"type":"t","payload":{"alias":"a","amount":1,"allocationId":"x"},"id":"1"}`, "t", "1", "x", true},
		{`{"type":"t","payload":null}`, "t", "", "", true},
		{`{"id":"1","payload":{"allocationId":"x","metadata":{"id":"2","type":"u","allocationId":"y"}},"type":"t"}`, "t", "1", "x", true},
		{`{"type":"t","payload":{"alias":"a\"}\\","n":["]","{"]},"id":"1"}`, "t", "1", "", true},
		{`{"payload":{},"other":{"allocationId":"x"},"type":"t"}`, "t", "", "", true},
		{`{"type":"t","payload":{"alias":"a"`, "t", "", "", false},
		{`{"type":"t`, "t", "", "", false},
		{`{"type`, "", "", "", false},
		{`{"type":`, "", "", "", false},
		{``, "", "", "", false},
	}
	for _, tt := range tests {
		m, ok := scan([]byte(tt.in))
		if string(m.typ) != tt.typ && tt.ok || string(m.id) != tt.id || string(m.allocation) != tt.allocation || ok != tt.ok {
			t.Errorf("scan(%s) = %q %q %q %v", tt.in, m.typ, m.id, m.allocation, ok)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(`{"type":"t","payload":{"allocationId":"x"},"id":"1"}`))
	f.Add([]byte(`{"a\\":"\""}`))
	f.Fuzz(func(_ *testing.T, b []byte) { scan(b) })
}
