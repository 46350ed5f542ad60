// Package book is the rules of the service's ledger, as both stores use them: what is admitted, what is
// charged, what expires, and in which window it counts. It does no I/O.
//
// A Book holds ledgers (Account) and allocations in memory: all of them in the embedded store, those that one
// transaction touches over PostgreSQL. A Batch applies operations to it in order and keeps what it has changed,
// which the store then makes durable as one transaction, or takes back with Undo.
//
// Nothing here is safe for concurrent use; the store's lock guards it.
package book
