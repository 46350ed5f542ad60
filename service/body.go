package service

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxBody bounds what a request to /api/v1 may send.
const maxBody = 1 << 20

// readBody reads a body of one of the media types; where it is another, or too large, it answers, and returns false.
func readBody(w http.ResponseWriter, r *http.Request, types ...string) ([]byte, bool) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(types, kind) {
		writeError(w, http.StatusUnsupportedMediaType, "unsupported_media_type", "the Content-Type must be "+types[0])
		return nil, false
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		writeError(w, http.StatusRequestEntityTooLarge, "too_large", "the body is larger than 1 MiB")
		return nil, false
	}
	if err != nil {
		writeError(w, http.StatusBadRequest, "invalid_body", "the body ended early")
		return nil, false
	}
	return data, true
}

// readJSON reads a body of one JSON object into value, and refuses what value has no field for. Where it can't, it answers, and
// returns false.
func readJSON(w http.ResponseWriter, r *http.Request, value any) bool {
	data, ok := readBody(w, r, "application/json")
	if !ok {
		return false
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(value)
	var wrongType *json.UnmarshalTypeError
	unknown, isUnknown := "", false
	if err != nil {
		unknown, isUnknown = strings.CutPrefix(err.Error(), "json: unknown field ") // the package has no type for it; it is only told on
	}
	switch {
	case errors.As(err, &wrongType):
		where := "the body"
		if wrongType.Field != "" {
			where = wrongType.Field
		}
		writeError(w, http.StatusUnprocessableEntity, "invalid", where+": here is a "+wrongType.Value+", where a "+kindOf(wrongType.Type)+" is expected")
	case isUnknown:
		writeError(w, http.StatusUnprocessableEntity, "invalid", "there is no field "+unknown)
	case err != nil:
		writeError(w, http.StatusBadRequest, "invalid_json", "the body is not JSON")
	case !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")):
		writeError(w, http.StatusUnprocessableEntity, "invalid", "the body is no JSON object")
	default:
		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			writeError(w, http.StatusBadRequest, "invalid_json", "something follows the JSON object")
			return false
		}
		return true
	}
	return false
}

// matches reports whether a version is what an If-Match header asks for; without one, it is.
func matches(header string, version int64) bool {
	if header == "" {
		return true
	}
	for tag := range strings.SplitSeq(header, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag(version) {
			return true
		}
	}
	return false
}

func etag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }
