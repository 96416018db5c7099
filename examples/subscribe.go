// Logs in over TCP, joins a room, sends heartbeats and prints what it receives. Standard library only.
//
//	go run examples/subscribe.go [HOST:PORT] [ROOM] [MID]
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"time"
)

const (
	opHeartbeat, opHeartbeatReply     = 2, 3
	opDisconnect, opAuth, opAuthReply = 6, 7, 8

	heartbeatEvery = 25 * time.Second // the server waits for minutes, but proxies and NAT forget sooner
	silence        = 60 * time.Second // heartbeats are answered, so this long without a byte is a dead connection
)

// header is what each frame begins with, big-endian; the body follows.
type header struct {
	PackLen   int32 // header and body
	HeaderLen int16
	Ver       int16
	Op        int32
	Seq       int32
}

const headerLen = 16

func send(conn net.Conn, op, seq int32, body []byte) error {
	frame := make([]byte, 0, headerLen+len(body))
	frame = binary.BigEndian.AppendUint32(frame, uint32(headerLen+len(body)))
	frame = binary.BigEndian.AppendUint16(frame, headerLen)
	frame = binary.BigEndian.AppendUint16(frame, 1)
	frame = binary.BigEndian.AppendUint32(frame, uint32(op))
	frame = binary.BigEndian.AppendUint32(frame, uint32(seq))
	_, err := conn.Write(append(frame, body...))
	return err
}

func receive(reader io.Reader) (op int32, body []byte, err error) {
	var h header
	if err = binary.Read(reader, binary.BigEndian, &h); err != nil {
		return
	}
	if h.HeaderLen != headerLen || h.PackLen < headerLen {
		return 0, nil, fmt.Errorf("not a frame: %+v", h)
	}
	body = make([]byte, h.PackLen-headerLen)
	_, err = io.ReadFull(reader, body)
	return h.Op, body, err
}

func argument(n int, otherwise string) string {
	if len(os.Args) > n {
		return os.Args[n]
	}
	return otherwise
}

func main() {
	log.SetFlags(0)
	address, room := argument(1, "127.0.0.1:3101"), argument(2, "live://1000")
	mid, err := strconv.ParseInt(argument(3, "1"), 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	login, _ := json.Marshal(map[string]any{
		"mid":      mid,                       // the user
		"key":      fmt.Sprintf("go-%d", mid), // the device: one connection each
		"room_id":  room,
		"platform": "go",
		"accepts":  []int32{1000},       // operations of pushes to devices, users and everybody; rooms do not ask
		"features": []string{"reasons"}, // Halley says why before it closes; goim ignores this
	})
	if err := send(conn, opAuth, 1, login); err != nil {
		log.Fatal(err)
	}

	reader := bufio.NewReader(conn)
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		op, body, err := receive(reader)
		if err != nil {
			log.Fatal("the connection ended: ", err)
		}
		switch op {
		case opAuthReply:
			fmt.Printf("logged in as %d, in %s\n", mid, room)
			go func() {
				for seq := int32(2); send(conn, opHeartbeat, seq, nil) == nil; seq++ {
					time.Sleep(heartbeatEvery)
				}
			}()
		case opHeartbeatReply:
			fmt.Println("people in the room:", binary.BigEndian.Uint32(body))
		case opDisconnect:
			fmt.Println("the server closes:", string(body))
		default:
			fmt.Println(op, string(body))
		}
	}
}
