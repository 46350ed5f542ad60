// Package wal is a write-ahead log: records, numbered in order, in the files of a folder.
//
// A record is in the log once Append returns, outlives the process once Flush does, and the machine once Sync does.
// Opening a log replays it. What a crash has torn off the end is dropped; anything else that is missing or damaged is an
// error, because a record that Sync has confirmed may be lost.
//
// The files, called segments, are written full of zeros before they are used, so that a Sync has no size of a file to make
// durable: on ext4 that is 1.5 times as many a second. Segments that are trimmed away are used again.
//
//	segment = "UFWAL 1\n", number of the first record, salt, crc of these and zero (4 bytes each); records; zeros
//	record  = crc of the rest, length of the data (4 bytes each), number, number of the last record that was durable
//	          when this one was written; the data; zeros to a multiple of 8
//
// Numbers are little endian, of 8 bytes where nothing else is said; crc is CRC-32C, in records begun with the segment's salt,
// so that what a segment held in an earlier use is never taken for a record.
//
// The number of the last durable record tells damage from a tear: a record that is unreadable, though a later one says that it
// was durable, is damaged.
package wal
