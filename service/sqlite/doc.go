// Package sqlite is the service's embedded ledger: package service's Ledger in one folder, without cgo.
//
// What decides is in memory: every ledger's counters and the allocations that are held (state.go, package book). One goroutine,
// the committer, takes whatever operations are queued, applies them, and answers when they are durable (committer.go). A second one,
// the writer, appends a row with the records that each batch has changed to the journal, a log of package wal (writer.go,
// journal.go); the committer decides the next batches meanwhile, and takes them back where the write fails. A third one, the folder,
// moves the records into the tables of usageflow.db, an SQLite file, in large transactions, about once a second; then the journal
// is trimmed (fold.go, tables.go). Opening reads the tables and replays what is left of the journal.
//
// Whether an id was used before is looked up in the tables, unless a Bloom filter says that it is new (filter.go).
//
// So a reservation costs a share of one small sequential write, random allocation ids reach the index in sorted batches, and
// usageflow.db holds ordinary tables that lag by a second at most (but for two columns in the journal's form).
//
// A Store is safe for concurrent use. One process at a time has a folder open.
package sqlite
