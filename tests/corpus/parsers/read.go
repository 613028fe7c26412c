// What Go's parser makes of bytes: of requests as a server reads them, of an answer as a client does. Jobs come as JSON lines, and
// what was read goes out as JSON lines.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

type job struct {
	Kind, Method, Bytes string
}

type message struct {
	Line     string      `json:"line,omitempty"`
	Status   int         `json:"status,omitempty"`
	Fields   [][2]string `json:"fields"`
	Body     string      `json:"body"`
	Trailers [][2]string `json:"trailers"`
}

type outcome struct {
	Read  []message `json:"read"`
	Cut   string    `json:"cut,omitempty"`
	Error string    `json:"error,omitempty"`
}

func octets(text string) []byte {
	var all []byte
	for _, char := range text {
		all = append(all, byte(char))
	}
	return all
}

func latin1(all []byte) string {
	var text strings.Builder
	for _, octet := range all {
		text.WriteRune(rune(octet))
	}
	return text.String()
}

func pairs(header http.Header) [][2]string {
	all := [][2]string{}
	for name, values := range header {
		for _, value := range values {
			all = append(all, [2]string{strings.ToLower(name), latin1([]byte(value))})
		}
	}
	return all
}

func requests(all []byte) outcome {
	reader := bufio.NewReader(bytes.NewReader(all))
	done := outcome{Read: []message{}}
	for {
		if _, err := reader.Peek(1); err != nil {
			return done
		}
		request, err := http.ReadRequest(reader)
		if err != nil {
			return outcome{Error: err.Error()}
		}
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return outcome{Error: err.Error()}
		}
		// Go moves these out of the head.
		fields := append(pairs(request.Header), [2]string{"host", request.Host})
		line := latin1([]byte(fmt.Sprintf("%s %s", request.Method, request.RequestURI)))
		done.Read = append(done.Read, message{line, 0, fields, latin1(body), pairs(request.Trailer)})
	}
}

func answer(all []byte, method string) outcome {
	reader := bufio.NewReader(bytes.NewReader(all))
	for {
		answer, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			return outcome{Error: err.Error()}
		}
		if answer.StatusCode < 200 {
			continue
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return outcome{Cut: err.Error()}
		}
		return outcome{Read: []message{{"", answer.StatusCode, pairs(answer.Header), latin1(body), pairs(answer.Trailer)}}}
	}
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64*1024*1024)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var next job
		if err := json.Unmarshal(lines.Bytes(), &next); err != nil {
			panic(err)
		}
		if next.Kind == "requests" {
			out.Encode(requests(octets(next.Bytes)))
		} else {
			out.Encode(answer(octets(next.Bytes), next.Method))
		}
	}
}
