package core

import (
	"strconv"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// Longest texts of a request that go into a settlement, in bytes: the service takes messages up to 1 MiB.
const (
	maxPathBytes      = 2 << 10
	maxUserAgentBytes = 512
)

// appendReservation appends the payload of a request_for_allocation.
func appendReservation(dst []byte, alias, id string, amount float64) []byte {
	dst = append(dst, `{"alias":`...)
	dst = wire.AppendString(dst, alias)
	dst = append(dst, `,"amount":`...)
	dst, _ = wire.AppendFloat(dst, amount) // amounts are checked when they are set
	dst = append(dst, `,"allocationId":"`...)
	dst = append(dst, id...)
	return append(dst, '"', '}')
}

// appendSettlement appends the payload of the use_allocation of a finished call, under the id.
func (c *Call) appendSettlement(dst []byte, id string, amount float64) []byte {
	dst = append(dst, `{"alias":`...)
	dst = wire.AppendString(dst, c.alias)
	dst = append(dst, `,"amount":`...)
	dst, _ = wire.AppendFloat(dst, amount) // amounts are checked when they are set
	dst = append(dst, `,"allocationId":`...)
	dst = wire.AppendString(dst, id)
	dst = append(dst, c.rule.description...)
	if c.method != jobMethod {
		dst = append(dst, `,"rawUrl":`...)
		dst = wire.AppendString(dst, cut(c.rawURL, maxPathBytes))
		dst = append(dst, `,"clientIP":`...)
		dst = wire.AppendString(dst, c.clientIP)
		dst = append(dst, `,"userAgent":`...)
		dst = wire.AppendString(dst, cut(c.userAgent, maxUserAgentBytes))
		dst = append(dst, `,"responseStatusCode":`...)
		dst = strconv.AppendInt(dst, int64(c.status), 10)
	}
	dst = append(dst, `,"timestamp":"`...)
	dst = c.start.UTC().AppendFormat(dst, time.RFC3339)
	dst = append(dst, `","usageflowRequestId":`...)
	dst = appendUUID(dst, c.requestID)
	dst = append(dst, `,"requestDuration":`...)
	dst = strconv.AppendFloat(dst, float64(c.duration.Microseconds())/1000, 'f', 3, 64)
	dst = append(dst, c.captured...)
	return append(dst, '}', '}')
}

// appendDescription appends what the settlements of a route have in common.
func appendDescription(dst []byte, method, pattern string) []byte {
	dst = append(dst, `,"waitForConfirmation":true,"metadata":{"method":`...)
	dst = wire.AppendString(dst, method)
	dst = append(dst, `,"url":`...)
	return wire.AppendString(dst, pattern)
}

// appendUUID appends an id of our own, in which there is nothing to escape.
func appendUUID(dst []byte, id string) []byte {
	dst = append(dst, '"')
	dst = append(dst, id...)
	return append(dst, '"')
}

// cut shortens s to at most n bytes; AppendString repairs a rune that was cut.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
