package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// piBlock is the block size that a Pi's EEPROM asks for (docs/platform.md 3.5),
// bytes.
const piBlock = 1468

// fetchTFTP is a client of TFTP that does no more than it must, so that what is
// measured is the server. It returns the file's size in bytes.
func fetchTFTP(from netip.Addr, server netip.AddrPort, name string) (int64, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	out := []byte("\x00\x01" + name + "\x00octet\x00tsize\x000\x00blksize\x00" + fmt.Sprint(piBlock) + "\x00")
	to, in := server, make([]byte, 4+piBlock)
	var got int64
	for block := uint16(0); ; {
		if _, err := conn.WriteToUDPAddrPort(out, to); err != nil {
			return got, err
		}
		for answered := false; !answered; {
			conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, peer, err := conn.ReadFromUDPAddrPort(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break // say it again
			}
			if err != nil {
				return got, err
			}
			switch op := binary.BigEndian.Uint16(in); {
			case op == 5:
				return got, fmt.Errorf("%s: the server says %q", name, in[4:n])
			case op == 6 && block == 0:
			case op == 3 && binary.BigEndian.Uint16(in[2:]) == block+1:
				block++
				got += int64(n - 4)
			default:
				continue
			}
			out, to, answered = binary.BigEndian.AppendUint16([]byte{0, 4}, block), netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), true
			if n-4 < piBlock && block > 0 {
				_, err := conn.WriteToUDPAddrPort(out, to)
				return got, err
			}
		}
	}
}

// tftpSpeed has some clients fetch files one after the other, all at the same
// time, and returns bytes a second, all together. Each has an address of its
// own.
func tftpSpeed(server netip.AddrPort, clients int, names func(client int) []string) (float64, error) {
	start := time.Now()
	var group sync.WaitGroup
	var mu sync.Mutex
	var bytes int64
	var failed error
	for c := range clients {
		group.Go(func() {
			for _, name := range names(c) {
				n, err := fetchTFTP(clientAddr(c), server, name)
				mu.Lock()
				if bytes += n; err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return float64(bytes) / time.Since(start).Seconds(), failed
}

// clientAddr is one of loopback's.
func clientAddr(c int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + c)}) }
