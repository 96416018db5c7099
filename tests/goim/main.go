// goim's side of a mixed cluster for tests: its libraries in its versions, opened with its options.
//
//	goim job BROKERS                 consumes as goim's job does, until its input ends
//	goim push BROKERS                produces as goim's logic does: a JSON line in for each record
//	goim serve comet|logic REPLIES   serves goim's gRPC service; REPLIES is JSON, a reply for each method
//	goim call comet|logic ADDRESS    calls it: a JSON line in for each call
//	goim visit CHAIN                 logs in over TLS and waits for pushes: a JSON line in for each; CHAIN is who is trusted
//
// What happens is printed, one JSON line each.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

var printing sync.Mutex

// say prints one line.
func say(line interface{}) {
	text, err := json.Marshal(line)
	check(err)
	printing.Lock()
	defer printing.Unlock()
	_, err = os.Stdout.Write(append(text, '\n'))
	check(err)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "goim:", err)
		os.Exit(1)
	}
}

// hear reads the next line of the input into line; false at its end.
func hear(input *json.Decoder, line interface{}) bool {
	err := input.Decode(line)
	if err == io.EOF {
		return false
	}
	check(err)
	return true
}

func main() {
	input := json.NewDecoder(os.Stdin)
	switch command := strings.Join(os.Args[1:], " "); {
	case len(os.Args) == 3 && os.Args[1] == "job":
		job(strings.Split(os.Args[2], ","), input)
	case len(os.Args) == 3 && os.Args[1] == "push":
		push(strings.Split(os.Args[2], ","), input)
	case len(os.Args) == 3 && os.Args[1] == "visit":
		visits(os.Args[2], input)
	case len(os.Args) == 4 && os.Args[1] == "serve" && services[os.Args[2]] != nil:
		serve(os.Args[2], os.Args[3], input)
	case len(os.Args) == 4 && os.Args[1] == "call" && services[os.Args[2]] != nil:
		call(os.Args[2], os.Args[3], input)
	default:
		check(fmt.Errorf("unknown command %q", command))
	}
}
