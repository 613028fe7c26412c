// Go's net/http: HTTP/1.1, and HTTP/2 by prior knowledge (Go 1.24 or later).
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

var (
	base   = os.Args[1]
	size   = os.Args[2]
	sum256 = os.Args[3]
	failed = false
)

func main() {
	http1 := &http.Transport{MaxIdleConnsPerHost: 50}
	run("HTTP/1.1", http1)
	http2 := &http.Transport{Protocols: new(http.Protocols)}
	http2.Protocols.SetUnencryptedHTTP2(true)
	run("HTTP/2", http2)
	if failed {
		os.Exit(1)
	}
}

type caller struct {
	client   *http.Client
	protocol string
}

func (c caller) attempt(name string, body func() error) {
	if fault := body(); fault != nil {
		failed = true
		why := strings.Join(strings.Fields(fault.Error()), " ")
		fmt.Printf("not ok %s %s: %.300s\n", c.protocol, name, why)
		return
	}
	fmt.Printf("ok %s %s\n", c.protocol, name)
}

// The answer's head; the body is still to be read.
func (c caller) open(method, path string, body io.Reader) (*http.Response, error) {
	request, fault := http.NewRequest(method, base+path, body)
	if fault != nil {
		return nil, fault
	}
	return c.client.Do(request)
}

func (c caller) call(method, path string, body io.Reader) (*http.Response, []byte, error) {
	answer, fault := c.open(method, path, body)
	if fault != nil {
		return nil, nil, fault
	}
	defer answer.Body.Close()
	read, fault := io.ReadAll(answer.Body)
	return answer, read, fault
}

func sum(body []byte) string {
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:])
}

func equal(got, wanted any) error {
	if got != wanted {
		return fmt.Errorf("wanted %.150q, got %.150q", fmt.Sprint(wanted), fmt.Sprint(got))
	}
	return nil
}

func checkEcho(text []byte, method, target, body string) error {
	var echo struct {
		Method, Target, Body string
		Headers              [][2]string
	}
	if fault := json.Unmarshal(text, &echo); fault != nil {
		return fmt.Errorf("%w: %.200s", fault, text)
	}
	count := map[string]int{}
	for _, header := range echo.Headers {
		count[header[0]]++
	}
	return errors.Join(equal(echo.Method, method), equal(echo.Target, target), equal(echo.Body, body),
		equal(count["authorization"], 1), equal(count["organization"], 1))
}

func checkUploaded(text []byte) error {
	return equal(string(text), fmt.Sprintf(`{"bytes":%s,"pattern_ok":true,"sha256":"%s"}`, size, sum256))
}

// Hides a reader's length, so that the upload is streamed.
type streamed struct{ io.Reader }

func run(protocol string, transport *http.Transport) {
	c := caller{&http.Client{Transport: transport, Timeout: 20 * time.Second}, protocol}
	// Redirects are answers.
	c.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	var pattern []byte
	c.attempt("download", func() error {
		answer, body, fault := c.call("GET", "/_sim/download?bytes="+size, nil)
		if fault != nil {
			return fault
		}
		pattern = body
		return errors.Join(equal(sum(body), sum256), equal(strings.TrimSuffix(answer.Proto, ".0"), protocol))
	})
	c.attempt("GET", func() error {
		_, body, fault := c.call("GET", "/_sim/echo?a=%20b&c", nil)
		return errors.Join(fault, checkEcho(body, "GET", "/_sim/echo?a=%20b&c", ""))
	})
	c.attempt("download of unannounced length", func() error {
		_, body, fault := c.call("GET", "/_sim/download?chunked=1&bytes="+size, nil)
		return errors.Join(fault, equal(sum(body), sum256))
	})
	c.attempt("upload", func() error {
		_, body, fault := c.call("POST", "/_sim/upload", bytes.NewReader(pattern))
		return errors.Join(fault, checkUploaded(body))
	})
	c.attempt("streamed upload", func() error {
		_, body, fault := c.call("POST", "/_sim/upload", streamed{bytes.NewReader(pattern)})
		return errors.Join(fault, checkUploaded(body))
	})
	c.attempt("mirror, both ways at once", func() error {
		_, body, fault := c.call("POST", "/_sim/mirror", streamed{bytes.NewReader(pattern)})
		return errors.Join(fault, equal(sum(body), sum256))
	})
	c.attempt("HEAD", func() error {
		answer, body, fault := c.call("HEAD", "/_sim/download?bytes="+size, nil)
		if fault != nil {
			return fault
		}
		return errors.Join(equal(answer.Header.Get("Content-Length"), size), equal(len(body), 0))
	})
	c.attempt("204, 304, 404, 500", func() error {
		for _, status := range []int{204, 304, 404, 500} {
			answer, _, fault := c.call("GET", "/_sim/status/"+strconv.Itoa(status), nil)
			if fault != nil {
				return fault
			}
			if fault := equal(answer.StatusCode, status); fault != nil {
				return fault
			}
		}
		return nil
	})
	c.attempt("302, Location on our side", func() error {
		answer, _, fault := c.call("GET", "/_sim/redirect", nil)
		if fault != nil {
			return fault
		}
		return errors.Join(equal(answer.StatusCode, 302), equal(answer.Header.Get("Location"), "/users/account"))
	})
	c.attempt("409", func() error {
		user := fmt.Sprintf(`{"email":"go%d@example.test"}`, time.Now().UnixNano())
		for _, status := range []int{201, 409} {
			answer, _, fault := c.call("POST", "/users", strings.NewReader(user))
			if fault != nil {
				return fault
			}
			if fault := equal(answer.StatusCode, status); fault != nil {
				return fault
			}
		}
		return nil
	})
	c.attempt("problem+json", func() error {
		answer, body, fault := c.call("POST", "/patient/auth", strings.NewReader("{}"))
		if fault != nil {
			return fault
		}
		var problem struct{ Code string }
		fault = json.Unmarshal(body, &problem)
		return errors.Join(fault, equal(answer.StatusCode, 403), equal(problem.Code, "login_path"),
			equal(answer.Header.Get("Content-Type"), "application/problem+json"),
			equal(strings.HasPrefix(answer.Header.Get("Proxy-Status"), "careportals-sidecar; error="), true))
	})
	c.attempt("server-sent events", func() error {
		answer, fault := c.open("GET", "/_sim/sse?events=5&interval_ms=80", nil)
		if fault != nil {
			return fault
		}
		defer answer.Body.Close()
		first := make([]byte, 1)
		_, fault = io.ReadFull(answer.Body, first)
		start := time.Now()
		rest, fault2 := io.ReadAll(answer.Body)
		return errors.Join(fault, fault2, equal(strings.Count(string(rest), "data: "), 5),
			equal(time.Since(start) > 150*time.Millisecond, true))
	})
	c.attempt("drip", func() error {
		_, body, fault := c.call("GET", "/_sim/drip?bytes=20&interval_ms=5", nil)
		return errors.Join(fault, equal(string(body), string(pattern[:min(20, len(pattern))])))
	})
	c.attempt("gzip", func() error {
		_, body, fault := c.call("GET", "/_sim/gzip", nil)
		return errors.Join(fault, equal(strings.Contains(string(body), `"gzipped":true`), true))
	})
	c.attempt("trailers down", func() error {
		request, _ := http.NewRequest("GET", base+"/_sim/trailers", nil)
		request.Header.Set("TE", "trailers")
		answer, fault := c.client.Do(request)
		if fault != nil {
			return fault
		}
		defer answer.Body.Close()
		body, fault := io.ReadAll(answer.Body)
		return errors.Join(fault, equal(answer.Trailer.Get("X-Checksum"), sum(body)))
	})
	c.attempt("trailers up", func() error {
		request, _ := http.NewRequest("POST", base+"/_sim/trailers", streamed{strings.NewReader("body")})
		request.Trailer = http.Header{"X-Up": {"there"}}
		answer, fault := c.client.Do(request)
		if fault != nil {
			return fault
		}
		defer answer.Body.Close()
		body, fault := io.ReadAll(answer.Body)
		return errors.Join(fault, equal(string(body), `{"body_bytes":4,"trailers":[["x-up","there"]]}`))
	})
	c.attempt("the connection is reused", func() error {
		for number := range 5 {
			reused := false
			trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused }}
			request, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "POST",
				base+"/_sim/echo", strings.NewReader("x"))
			answer, fault := c.client.Do(request)
			if fault != nil {
				return fault
			}
			io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
			if number > 0 && !reused {
				return fmt.Errorf("a new connection for request %d", number)
			}
		}
		return nil
	})
	c.attempt("50 in parallel", func() error {
		faults := make([]error, 50)
		var all sync.WaitGroup
		for number := range 50 {
			all.Add(1)
			go func() {
				defer all.Done()
				target := fmt.Sprintf("/_sim/echo?number=%d", number)
				text := fmt.Sprintf("number %d", number)
				_, body, fault := c.call("POST", target, strings.NewReader(text))
				faults[number] = errors.Join(fault, checkEcho(body, "POST", target, text))
			}()
		}
		all.Wait()
		return errors.Join(faults...)
	})
	c.attempt("a body cut short", func() error {
		for _, query := range []string{"", "&chunked=1"} {
			answer, fault := c.open("GET", "/_sim/reset?after=1000"+query, nil)
			if fault != nil {
				return fmt.Errorf("no answer at all: %w", fault)
			}
			body, fault := io.ReadAll(answer.Body)
			answer.Body.Close()
			if fault == nil {
				return fmt.Errorf("looked whole: %d bytes", len(body))
			}
		}
		return nil
	})
	c.attempt("a request given up", func() error {
		soon, stop := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer stop()
		request, _ := http.NewRequestWithContext(soon, "GET", base+"/_sim/hang", nil)
		if _, fault := c.client.Do(request); !errors.Is(fault, context.DeadlineExceeded) {
			return fmt.Errorf("unexpected: %v", fault)
		}
		answer, _, fault := c.call("GET", "/customers", nil)
		if fault != nil {
			return fault
		}
		return equal(answer.StatusCode, 200)
	})
	c.attempt("413 before the upload's end", func() error {
		answer, fault := c.open("POST", "/_sim/early?status=413", streamed{bytes.NewReader(make([]byte, 8_000_000))})
		if fault != nil {
			return fault
		}
		answer.Body.Close()
		return equal(answer.StatusCode, 413)
	})
}
