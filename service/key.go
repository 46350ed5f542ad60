package service

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// The sources of applications and keys.
const (
	SourceFile = "file"
	SourceAPI  = "api"
)

// Key is what is known of an agent's key. The key itself is not kept, only its SHA-256.
type Key struct {
	// ID names the key in the API.
	ID string
	// Prefix is how the key begins, for people to tell keys apart by.
	Prefix string
	// Label says what the key is for; it may be empty.
	Label string
	// CreatedAt is zero where it is not known.
	CreatedAt time.Time
	// Source is SourceFile or SourceAPI.
	Source string

	hash keyHash
}

// keyHash is what is kept of a key.
type keyHash [sha256.Size]byte

func hashKey(key string) keyHash { return sha256.Sum256([]byte(key)) }

func parseKeyHash(text string) (h keyHash, err error) {
	data, err := hex.DecodeString(text)
	if err != nil || len(data) != len(h) {
		return h, errors.New("the key's hash is none")
	}
	return keyHash(data), nil
}

// newKey describes a key. A short one shows less of itself.
func newKey(text, label, source string) Key {
	hash := hashKey(text)
	id := sha256.Sum256(hash[:]) // tells nothing about a key that is easy to guess, unlike a piece of its hash
	return Key{ID: "k_" + hex.EncodeToString(id[:6]), Prefix: text[:min(7, len(text)/2)], Label: label, Source: source, hash: hash}
}

func (k *Key) record() keyRecord {
	return keyRecord{
		ID: k.ID, Prefix: k.Prefix, Label: k.Label, CreatedAt: toMillis(k.CreatedAt), Source: k.Source, Hash: hex.EncodeToString(k.hash[:]),
	}
}

const (
	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// keyLength is how many digits a generated key has after uf_: 190 bits.
	keyLength = 32
)

// generateKey makes a key that nobody can guess.
func generateKey() string {
	key := append(make([]byte, 0, 3+keyLength), "uf_"...)
	var random [2 * keyLength]byte
	for {
		_, _ = rand.Read(random[:]) // it never fails
		for _, b := range random {
			if b >= 4*62 {
				continue // the digits would not be equally likely
			}
			if key = append(key, base62[b%62]); len(key) == cap(key) {
				return string(key)
			}
		}
	}
}

// toMillis turns a time into Unix ms; the zero time is 0.
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// fromMillis is the reverse of toMillis.
func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
