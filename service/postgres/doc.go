// Package postgres is the service's ledger for several replicas: package service's Ledger on a PostgreSQL database
// that all of them share.
//
// Each replica groups what is queued and decides it in one transaction (committer.go). The transaction first locks the
// row of the table clock, which makes the replicas take turns, and reads the time from the database. It reads the
// ledgers and allocations that the operations name, decides them with the rules of service/internal/book, and writes
// what has changed, with one statement over arrays per table: two round trips and one commit for as many operations as
// there are. Nothing is kept in memory from one transaction to the next, so what another replica has committed counts,
// and a replica that dies leaves nothing behind.
//
// Everything is in the schema usageflow. A replica that stands still with the lock loses it after a few seconds
// (idle_in_transaction_session_timeout).
package postgres
