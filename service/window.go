package service

import (
	"fmt"
	"time"
)

// Window is the calendar period, in UTC, over which a limit counts. The zero value is no window: the
// count runs for ever. The numbers are stored by ledgers and never change their meaning.
type Window uint8

// The windows a limit can have.
const (
	WindowNone Window = iota
	WindowSecond
	WindowMinute
	WindowHour
	WindowDay
	WindowMonth
)

// ParseWindow reads the name that String returns. The empty name is not a window.
func ParseWindow(name string) (Window, error) {
	for w := WindowSecond; w <= WindowMonth; w++ {
		if w.String() == name {
			return w, nil
		}
	}
	return WindowNone, fmt.Errorf("window %q is not one of second, minute, hour, day, month", name)
}

// String returns second, minute, hour, day or month; none for no window.
func (w Window) String() string {
	switch w {
	case WindowSecond:
		return "second"
	case WindowMinute:
		return "minute"
	case WindowHour:
		return "hour"
	case WindowDay:
		return "day"
	case WindowMonth:
		return "month"
	default:
		return "none"
	}
}

// Start returns the beginning of the window that contains t; the zero time for WindowNone.
func (w Window) Start(t time.Time) time.Time {
	t = t.UTC()
	switch w {
	case WindowSecond:
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
	case WindowMinute:
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
	case WindowHour:
		return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), 0, 0, 0, time.UTC)
	case WindowDay:
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	case WindowMonth:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	default:
		return time.Time{}
	}
}

// End returns when the window that begins at start ends, which is when the next begins; the zero
// time for WindowNone.
func (w Window) End(start time.Time) time.Time {
	start = start.UTC()
	switch w {
	case WindowSecond:
		return start.Add(time.Second)
	case WindowMinute:
		return start.Add(time.Minute)
	case WindowHour:
		return start.Add(time.Hour)
	case WindowDay:
		return start.AddDate(0, 0, 1)
	case WindowMonth:
		return start.AddDate(0, 1, 0)
	default:
		return time.Time{}
	}
}

// Seconds returns the length of the window that begins at start, in whole seconds; 0 for WindowNone.
func (w Window) Seconds(start time.Time) int64 {
	if w == WindowNone {
		return 0
	}
	return int64(w.End(start).Sub(start) / time.Second)
}
