// Package sqlite is the service's embedded ledger: package service's Ledger in one folder, without cgo.
//
// What decides is in memory: every ledger's counters and the allocations that are held (state.go, package book). One goroutine,
// the committer, takes whatever operations are queued, applies them, appends one row with the records they changed to the
// journal, a log of package wal, and answers when that row is durable (committer.go, journal.go). A second goroutine, the folder,
// moves the records into the tables of usageflow.db, an SQLite file, in large transactions, about once a second; then the journal
// is trimmed (fold.go, tables.go). Opening reads the tables and replays what is left of the journal.
//
// So a reservation costs a share of one small sequential write, random allocation ids reach the index in sorted batches, and
// usageflow.db holds ordinary tables that lag by a second at most (but for two columns in the journal's form).
//
// A Store is safe for concurrent use. One process at a time has a folder open.
package sqlite
