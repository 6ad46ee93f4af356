package wire

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealboot/sealboot/measure/heaptest"
)

// messages are one of each, empty.
func messages() []Message {
	return []Message{new(HelloRequest), new(Hello), new(Device), new(Request), new(Challenge), new(Signed),
		new(Evidence), new(Release), new(Secrets), new(AgentApproval), new(Ack), new(Failure), new(Report)}
}

// TestHeap: attestd decodes what anybody sends, and a device what answers in attestd's name.
func TestHeap(t *testing.T) {
	bound := heaptest.Bound{Fixed: 1 << 20, PerByte: 8}
	for _, m := range messages() {
		for _, form := range []string{`%s`, `{"version":1,"pcrValues":%s}`, `{"version":1,"pcrs":%s}`, `{"version":1,"reasons":%s}`, `{"version":1,"firmwareLog":%s}`, `{"else":%s}`} {
			bound.JSON(t, form, m.limit(), func(raw []byte) { Unmarshal(raw, m) })
		}
	}
	for name, m := range examples(t) {
		raw, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		heaptest.Bound{Fixed: 256 << 10, PerByte: 16}.Mutated(t, name, raw, m.limit(), func(raw []byte) {
			for _, m := range messages() {
				Unmarshal(raw, m)
			}
		})
	}
}

// TestTooMuch: what is in a message is counted before it is decoded.
func TestTooMuch(t *testing.T) {
	for name, raw := range map[string]string{
		"values": `{"pcrValues":[` + strings.Repeat(`"",`, 1024) + `""]}`,
		"depth":  `{"pcrValues":` + strings.Repeat(`[`, 50) + strings.Repeat(`]`, 50) + `}`,
	} {
		e := new(Evidence)
		if err := Unmarshal([]byte(raw), e); !errors.Is(err, ErrMalformed) || e.PCRValues != nil {
			t.Errorf("%s: decoded %d values, %v", name, len(e.PCRValues), err)
		}
	}
}
