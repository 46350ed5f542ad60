package service

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// usageGroup is what usage is added up by.
type usageGroup struct {
	at                 int64
	application, group string
}

// usageView is a row of /api/v1/usage: amounts in units, times in Unix ms.
type usageView struct {
	At          int64   `json:"at"`
	Application string  `json:"application"`
	Group       string  `json:"group"`
	Amount      float64 `json:"amount"`
	Requests    uint64  `json:"requests"`
	Voided      uint64  `json:"voided"`
	Expired     uint64  `json:"expired"`
	Flagged     uint64  `json:"flagged"`
}

// maxUsageRows bounds an answer, and with it the memory that it takes.
const maxUsageRows = 500_000

// groupings are what group_by can be, and the group of a ledger.
var groupings = map[string]func(u *Usage) string{
	"alias":       func(u *Usage) string { return u.Alias },
	"application": func(*Usage) string { return "" },
	"identity": func(u *Usage) string {
		_, _, identity := splitAlias(u.Alias)
		return identity
	},
	"route": func(u *Usage) string {
		method, route, _ := splitAlias(u.Alias)
		return method + " " + route
	},
}

// serveUsage answers what was settled between from and to, added up by group and bucket, as JSON or CSV.
func (s *Service) serveUsage(w http.ResponseWriter, r *http.Request) {
	q, err := usageQuery(r, time.Now())
	groupBy := cmp.Or(r.FormValue("group_by"), "alias")
	group := groupings[groupBy]
	if err == nil && group == nil {
		err = fmt.Errorf("group_by %q is not one of alias, identity, route, application", groupBy)
	}
	format := r.FormValue("format")
	if format == "" && strings.HasPrefix(r.Header.Get("Accept"), "text/csv") {
		format = "csv"
	}
	if err == nil && format != "" && format != "csv" && format != "json" {
		err = fmt.Errorf("format %q is neither json nor csv", format)
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, "invalid_parameter", err.Error())
		return
	}
	sums := map[usageGroup]*Usage{}
	err = s.ledger.Usage(r.Context(), q, func(u Usage) error {
		key := usageGroup{u.At.UnixMilli(), u.Application, group(&u)}
		sum := sums[key]
		if sum == nil {
			if len(sums) == maxUsageRows {
				return errTooMuchUsage
			}
			sum = &Usage{}
			sums[key] = sum
		}
		sum.Add(&u)
		return nil
	})
	switch {
	case err == errTooMuchUsage: //nolint:errorlint // it comes back as it is
		writeError(w, http.StatusBadRequest, "too_much", err.Error())
		return
	case err != nil:
		s.serverError(w, r, err)
		return
	}
	rows := make([]usageView, 0, len(sums))
	for key, u := range sums {
		rows = append(rows, usageView{
			At: key.at, Application: key.application, Group: key.group,
			Amount: u.Amount.Units(), Requests: u.Requests, Voided: u.Voided, Expired: u.Expired, Flagged: u.Flagged,
		})
	}
	slices.SortFunc(rows, func(a, b usageView) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Application, b.Application), cmp.Compare(a.Group, b.Group))
	})
	if format == "csv" {
		writeUsageCSV(w, groupBy, rows)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"from": q.From.UnixMilli(), "to": q.To.UnixMilli(), "bucket": q.Bucket.String(), "groupBy": groupBy, "usage": rows,
	})
}

var errTooMuchUsage = fmt.Errorf("there are more than %d rows: take less time, or another group_by", maxUsageRows)

// usageQuery reads the parameters. From is a day before to by default, and to is now.
func usageQuery(r *http.Request, now time.Time) (q UsageQuery, err error) {
	q = UsageQuery{To: now, Bucket: WindowHour, Application: r.FormValue("application"), Alias: r.FormValue("alias")}
	if text := r.FormValue("bucket"); text != "" {
		if q.Bucket, err = ParseWindow(text); err != nil || q.Bucket != WindowHour && q.Bucket != WindowDay {
			return q, fmt.Errorf("bucket %q is neither hour nor day", text)
		}
	}
	if text := r.FormValue("to"); text != "" {
		if q.To, err = parseTime(text); err != nil {
			return q, fmt.Errorf("to: %w", err)
		}
	}
	q.From = q.To.Add(-24 * time.Hour)
	if text := r.FormValue("from"); text != "" {
		if q.From, err = parseTime(text); err != nil {
			return q, fmt.Errorf("from: %w", err)
		}
	}
	if q.To.Before(q.From) {
		return q, fmt.Errorf("to is before from")
	}
	return q, nil
}

// parseTime reads RFC 3339 or Unix ms.
func parseTime(text string) (time.Time, error) {
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms >= 0 && ms < 1e14 {
		return time.UnixMilli(ms).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 1970 {
		return t, fmt.Errorf("%q is neither a time like 2026-01-31T00:00:00Z nor one in Unix ms", text)
	}
	return t.UTC(), nil
}

func writeUsageCSV(w http.ResponseWriter, groupBy string, rows []usageView) {
	h := w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="usage.csv"`)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	out := csv.NewWriter(w)
	// The client may be gone: there is nobody to tell.
	_ = out.Write([]string{"at", "application", groupBy, "amount", "requests", "voided", "expired", "flagged"})
	for _, u := range rows {
		_ = out.Write([]string{
			time.UnixMilli(u.At).UTC().Format(time.RFC3339), text(u.Application), text(u.Group), strconv.FormatFloat(u.Amount, 'f', -1, 64),
			strconv.FormatUint(u.Requests, 10), strconv.FormatUint(u.Voided, 10), strconv.FormatUint(u.Expired, 10), strconv.FormatUint(u.Flagged, 10),
		})
	}
	out.Flush()
}

// text keeps a spreadsheet from taking what a client made up for a formula.
func text(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}
