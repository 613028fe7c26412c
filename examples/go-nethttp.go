// CarePortals through the sidecar, with net/http: go run go-nethttp.go FILE
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

var base = "http://127.0.0.1:2273"

func main() {
	if set := os.Getenv("CAREPORTALS_BASE_URL"); set != "" {
		base = set
	}
	// The lines that matter.
	account, err := http.Get(base + "/users/account")
	exitOn(err)
	fmt.Println("account:", account.StatusCode)
	account.Body.Close()

	// The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
	if socket := os.Getenv("CAREPORTALS_SOCKET"); socket != "" {
		http.DefaultTransport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	exitOn(run(os.Args[1]))
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func call(method, path, contentType string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequest(method, base+path, body)
	if err != nil {
		return nil, err
	}
	if file, isFile := body.(*os.File); isFile {
		// Without a length it is sent in chunks.
		if stat, err := file.Stat(); err == nil {
			request.ContentLength = stat.Size()
		}
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil || answer.StatusCode < 400 {
		return answer, err
	}
	defer answer.Body.Close()
	var problem struct{ Code, Detail, Message string }
	problem.Message = http.StatusText(answer.StatusCode) // What is no JSON comes from a gateway on the way.
	_ = json.NewDecoder(answer.Body).Decode(&problem)
	if !strings.HasPrefix(answer.Header.Get("Proxy-Status"), "careportals-sidecar") {
		return nil, fmt.Errorf("CarePortals %d: %s", answer.StatusCode, problem.Message)
	}
	retry := answer.Header.Get("Retry-After")
	if retry != "" {
		retry = " (retry after " + retry + " s)"
	}
	return nil, fmt.Errorf("sidecar %d %s: %s%s", answer.StatusCode, problem.Code, problem.Detail, retry)
}

// callJSON makes a call and decodes its answer.
func callJSON(method, path, contentType string, body io.Reader, answer any) (status int, err error) {
	response, err := call(method, path, contentType, body)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	return response.StatusCode, json.NewDecoder(response.Body).Decode(answer)
}

func run(path string) error {
	var found []struct{ FirstName, LastName string }
	query := url.Values{"keyword": {"+15550100150"}}
	status, err := callJSON("GET", "/customers/lookups?"+query.Encode(), "", nil, &found)
	if err != nil {
		return err
	}
	fmt.Printf("query: %d %s %s\n", status, found[0].FirstName, found[0].LastName)

	var cart struct {
		Status string
		Items  []struct {
			Product  string
			Quantity int
		}
	}
	sent, _ := json.Marshal(map[string]any{"items": []any{map[string]any{"product": "Crème", "quantity": 2}}})
	status, err = callJSON("POST", "/v2/carts", "application/json", strings.NewReader(string(sent)), &cart)
	if err != nil {
		return err
	}
	fmt.Printf("post: %d %s, %d x %s\n", status, cart.Status, cart.Items[0].Quantity, cart.Items[0].Product)

	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	var upload struct {
		Bytes  int
		SHA256 string
	}
	status, err = callJSON("POST", "/_sim/upload", "application/octet-stream", file, &upload)
	if err != nil {
		return err
	}
	fmt.Printf("upload: %d %d bytes, %s\n", status, upload.Bytes, upload.SHA256)

	events, err := call("GET", "/_sim/sse?events=3&interval_ms=100", "", nil)
	if err != nil {
		return err
	}
	defer events.Body.Close()
	lines := bufio.NewScanner(events.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "data: ") {
			fmt.Println("stream:", strings.TrimPrefix(lines.Text(), "data: "))
		}
	}
	if lines.Err() != nil {
		return lines.Err()
	}

	_, err = call("GET", "/customers/000000000000000000000000", "", nil) // nobody has this id
	return err
}
