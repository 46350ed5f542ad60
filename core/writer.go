package core

import (
	"io"
	"net/http"
)

// hijackable reports whether w, or a writer that it wraps, is a Hijacker, as http.ResponseController looks for one.
func hijackable(w http.ResponseWriter) bool {
	for {
		if _, ok := w.(http.Hijacker); ok {
			return true
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = wrapper.Unwrap()
	}
}

// withInterfaces gives t the optional interfaces that the writer below has, and no others: handlers decide by them.
func withInterfaces(t *tap, flusher, hijacker, pusher, readerFrom bool) ResponseWriter {
	type (
		F = interface {
			http.Flusher
			FlushError() error
		}
		H = http.Hijacker
		P = http.Pusher
		R = io.ReaderFrom
	)
	f, h, p, r := tapFlusher{t}, tapHijacker{t}, tapPusher{t}, tapReaderFrom{t}
	set := 0
	for i, has := range []bool{flusher, hijacker, pusher, readerFrom} {
		if has {
			set |= 1 << i
		}
	}
	switch set {
	case 1:
		return struct {
			*tap
			F
		}{t, f}
	case 2:
		return struct {
			*tap
			H
		}{t, h}
	case 3:
		return struct {
			*tap
			F
			H
		}{t, f, h}
	case 4:
		return struct {
			*tap
			P
		}{t, p}
	case 5:
		return struct {
			*tap
			F
			P
		}{t, f, p}
	case 6:
		return struct {
			*tap
			H
			P
		}{t, h, p}
	case 7:
		return struct {
			*tap
			F
			H
			P
		}{t, f, h, p}
	case 8:
		return struct {
			*tap
			R
		}{t, r}
	case 9:
		return struct {
			*tap
			F
			R
		}{t, f, r}
	case 10:
		return struct {
			*tap
			H
			R
		}{t, h, r}
	case 11:
		return struct {
			*tap
			F
			H
			R
		}{t, f, h, r}
	case 12:
		return struct {
			*tap
			P
			R
		}{t, p, r}
	case 13:
		return struct {
			*tap
			F
			P
			R
		}{t, f, p, r}
	case 14:
		return struct {
			*tap
			H
			P
			R
		}{t, h, p, r}
	case 15:
		return struct {
			*tap
			F
			H
			P
			R
		}{t, f, h, p, r}
	}
	return t
}
