package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// visit is what a client over TLS is to do: log in, or wait for a push and leave.
type visit struct {
	Address   string
	Version   uint16
	WebSocket bool
	Login     string
	Read      bool
}

// visited is how it went.
type visited struct {
	Version uint16
	Resumed bool
	Op      uint32
	Body    string
}

const (
	opAuth = 7
	opRaw  = 9
)

// visitor is a client of goim's wire over Go's TLS.
type visitor struct {
	conn      *tls.Conn
	reader    *bufio.Reader
	webSocket bool
}

// visits does what it is told, a JSON line each. Clients of one version share their tickets.
func visits(chain string, input *json.Decoder) {
	pem, err := os.ReadFile(chain)
	check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		check(errors.New("no certificate in " + chain))
	}
	caches := map[uint16]tls.ClientSessionCache{}
	var client *visitor
	for {
		var todo visit
		if !hear(input, &todo) {
			return
		}
		if !todo.Read {
			if caches[todo.Version] == nil {
				caches[todo.Version] = tls.NewLRUClientSessionCache(4)
			}
			conn, err := tls.Dial("tcp", todo.Address, &tls.Config{
				RootCAs: roots, ServerName: "localhost", ClientSessionCache: caches[todo.Version],
				MinVersion: todo.Version, MaxVersion: todo.Version,
			})
			check(err)
			check(conn.SetDeadline(time.Now().Add(30 * time.Second)))
			client = &visitor{conn, bufio.NewReader(conn), todo.WebSocket}
			if todo.WebSocket {
				client.upgrade()
			}
			client.send(opAuth, todo.Login)
		}
		op, body := client.read()
		state := client.conn.ConnectionState()
		if todo.Read {
			check(client.conn.Close())
		}
		say(visited{state.Version, state.DidResume, op, body})
	}
}

func (client *visitor) upgrade() {
	key := base64.StdEncoding.EncodeToString(make([]byte, 16))
	_, err := fmt.Fprintf(client.conn, "GET /sub HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"+
		"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", key)
	check(err)
	answer, err := http.ReadResponse(client.reader, nil)
	check(err)
	if answer.StatusCode != http.StatusSwitchingProtocols {
		check(errors.New(answer.Status))
	}
}

// send writes a frame, on WebSocket as a message whose mask is zero.
func (client *visitor) send(op uint32, body string) {
	var frame bytes.Buffer
	for _, part := range []interface{}{uint32(16 + len(body)), uint16(16), uint16(1), op, uint32(1)} {
		check(binary.Write(&frame, binary.BigEndian, part))
	}
	frame.WriteString(body)
	message := frame.Bytes()
	if client.webSocket {
		head := []byte{0x82, 0xfe, byte(len(message) >> 8), byte(len(message)), 0, 0, 0, 0}
		if len(message) < 126 {
			head = []byte{0x82, 0x80 | byte(len(message)), 0, 0, 0, 0}
		}
		message = append(head, message...)
	}
	_, err := client.conn.Write(message)
	check(err)
}

// read reads a frame. A push comes inside of operation 9 on WebSocket.
func (client *visitor) read() (uint32, string) {
	if client.webSocket {
		head := client.exactly(2)
		switch head[1] {
		case 126:
			client.exactly(2)
		case 127:
			client.exactly(8)
		}
	}
	for {
		head := client.exactly(16)
		op := binary.BigEndian.Uint32(head[8:])
		if op != opRaw {
			return op, string(client.exactly(int(binary.BigEndian.Uint32(head)) - 16))
		}
	}
}

func (client *visitor) exactly(count int) []byte {
	part := make([]byte, count)
	_, err := io.ReadFull(client.reader, part)
	check(err)
	return part
}
