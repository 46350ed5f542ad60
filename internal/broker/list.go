package broker

// node is a sender's place in a list.
type node struct {
	listed     bool
	prev, next *sender
}

// list is a queue of senders. A sender whose stream is over is in none: it would keep the stream alive.
type list struct {
	first, last *sender
	at          func(*sender) *node // which of a sender's places the list uses
}

func readyNode(s *sender) *node    { return &s.ready }
func grantingNode(s *sender) *node { return &s.granting }

// push appends s, unless it is in the list.
func (l *list) push(s *sender) {
	n := l.at(s)
	if n.listed {
		return
	}
	*n = node{listed: true, prev: l.last}
	if l.last == nil {
		l.first = s
	} else {
		l.at(l.last).next = s
	}
	l.last = s
}

// remove takes s out, if it is in the list.
func (l *list) remove(s *sender) {
	n := l.at(s)
	if !n.listed {
		return
	}
	if n.prev == nil {
		l.first = n.next
	} else {
		l.at(n.prev).next = n.next
	}
	if n.next == nil {
		l.last = n.prev
	} else {
		l.at(n.next).prev = n.prev
	}
	*n = node{}
}

// count returns how many senders l holds, at most limit.
func (l *list) count(limit int) (n int) {
	for s := l.first; s != nil && n < limit; s = l.at(s).next {
		n++
	}
	return n
}
