//go:build race

package natsmesh_test

const raceEnabled = true
