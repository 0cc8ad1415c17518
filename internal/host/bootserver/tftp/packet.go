// Package tftp serves files to boot ROMs: RFC 1350 with the options of RFC
// 2347 to 2349, read-only, one socket and one goroutine for each transfer.
//
// No library does what Pis need (docs/decisions/0010-tftp.md): timeouts from
// measured round trips, one answer to each block whatever is acknowledged twice,
// and aborts by the client that are no failures.
package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Opcodes of RFC 1350 5 and RFC 2347.
const (
	opRead  = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOAck  = 6
)

// Error codes of RFC 1350 5 and RFC 2347.
const (
	CodeOther    = 0
	CodeNotFound = 1
	CodeDenied   = 2
	CodeIllegal  = 4
	CodeOptions  = 8
)

// Sizes of blocks, in bytes: what RFC 1350 fixes, what RFC 2348 allows, and
// what fits an Ethernet frame: 1500 without the headers of IP, UDP and TFTP.
const (
	defaultBlock = 512
	minBlock     = 8
	maxBlock     = 65464
	ethernet     = 1468
)

// maxRequest bounds a request, in bytes: RFC 2347 says 512.
const maxRequest = 512

// request is an RRQ.
type request struct {
	name    string
	length  int  // of its packet, bytes
	block   int  // bytes
	options bool // some option is supported: the answer is an OACK
	tsize   bool
	blksize bool
}

// parseRequest reads the first packet of a transfer.
func parseRequest(b []byte) (request, *Error) {
	r := request{block: defaultBlock}
	if len(b) > maxRequest {
		return r, &Error{CodeIllegal, fmt.Sprintf("a request of %d bytes", len(b))}
	}
	if len(b) < 2 {
		return r, &Error{CodeIllegal, "no request"}
	}
	if op := binary.BigEndian.Uint16(b); op != opRead {
		if op == 2 {
			return r, &Error{CodeDenied, "nothing is written here"}
		}
		return r, &Error{CodeIllegal, "no request"}
	}
	words := bytes.Split(b[2:], []byte{0})
	// Every field ends with a zero, so the last one is empty.
	if len(words) < 3 || len(words[len(words)-1]) != 0 {
		return r, &Error{CodeIllegal, "a request that does not end"}
	}
	words = words[:len(words)-1]
	r.name = string(words[0])
	if !strings.EqualFold(string(words[1]), "octet") {
		return r, &Error{CodeIllegal, "only octet is served"}
	}
	for options := words[2:]; len(options) >= 2; options = options[2:] {
		value, err := strconv.ParseInt(string(options[1]), 10, 64)
		switch strings.ToLower(string(options[0])) {
		case "blksize":
			if err != nil || value < minBlock {
				return r, &Error{CodeOptions, fmt.Sprintf("blksize: want a number of bytes, %d at least", minBlock)}
			}
			r.block, r.blksize, r.options = int(min(value, maxBlock, ethernet)), true, true
		case "tsize":
			r.tsize, r.options = true, true
		}
	}
	return r, nil
}

// oack returns the answer to a request with options. A Pi wants both sizes
// whatever it asked for (docs/platform.md 3.5); RFC 2347 allows only what was
// asked, so a client that names one option gets that one.
func (r request) oack(size int64) []byte {
	b := []byte{0, opOAck}
	if r.tsize {
		b = append(b, "tsize\x00"+strconv.FormatInt(size, 10)+"\x00"...)
	}
	if r.blksize {
		b = append(b, "blksize\x00"+strconv.Itoa(r.block)+"\x00"...)
	}
	return b
}

// Error is an error packet.
type Error struct {
	Code    uint16
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// errorHead is the size of the opcode and code of an error packet, in bytes; the
// message behind them ends with a zero.
const errorHead = 4

func (e *Error) encode() []byte {
	b := binary.BigEndian.AppendUint16([]byte{0, opError}, e.Code)
	return append(append(b, e.Message...), 0)
}

// fit returns an error packet of at most size bytes, its message truncated if need
// be; nil where there is no room for one.
func (e *Error) fit(length int) []byte {
	b := e.encode()
	if len(b) <= length {
		return b
	}
	if length < errorHead+1 {
		return nil
	}
	return append(b[:length-1], 0)
}

// parseAck parses a client's packet during a transfer: the acknowledged block, or
// the reason for an abort.
func parseAck(b []byte) (block uint16, aborted *Error, err error) {
	if len(b) < 4 {
		return 0, nil, errors.New("packet too short")
	}
	switch binary.BigEndian.Uint16(b) {
	case opAck:
		return binary.BigEndian.Uint16(b[2:]), nil, nil
	case opError:
		text, _, _ := bytes.Cut(b[4:], []byte{0})
		return 0, &Error{binary.BigEndian.Uint16(b[2:]), string(text)}, nil
	}
	return 0, nil, errors.New("unexpected packet: want ACK or ERROR")
}
