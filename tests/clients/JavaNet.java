// java.net.http as it comes: the first request to a plain-text server carries `Upgrade: h2c`, `HTTP2-Settings` and
// `Connection: Upgrade, HTTP2-Settings`, and whoever answers 101 has to speak HTTP/2 from there on. Also its WebSocket.

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.HttpTimeoutException;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public class JavaNet {
    static String base;
    static int bytes;
    static String sha256;
    static byte[] pattern;
    static boolean failed;

    interface Case {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        bytes = Integer.parseInt(arguments[1]);
        sha256 = arguments[2];
        // The default is HTTP/2, which over plain text means the upgrade.
        cases("HTTP/1.1", HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build());
        webSockets();
        // Whatever the clients still hold open.
        System.exit(failed ? 1 : 0);
    }

    static void attempt(String protocol, String name, Case body) {
        try {
            body.run();
            System.out.println("ok " + protocol + " " + name);
        } catch (Throwable fault) {
            failed = true;
            String why = (fault + (fault.getCause() == null ? "" : ": " + fault.getCause())).replaceAll("\\s+", " ");
            System.out.println("not ok " + protocol + " " + name + ": " + why.substring(0, Math.min(300, why.length())));
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static String sum(byte[] body) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(body));
    }

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(base + path)).timeout(Duration.ofSeconds(20));
    }

    static HttpRequest post(String path, HttpRequest.BodyPublisher body) {
        return request(path).POST(body).build();
    }

    static void checkEcho(HttpResponse<String> answer, String target) {
        check(answer.statusCode() == 200, "status " + answer.statusCode());
        check(answer.body().contains("\"target\":\"" + target + "\""), answer.body());
        check(answer.body().split("\\[\"authorization\",\"Bearer ", -1).length == 2, "not one Authorization");
        check(answer.body().contains("[\"organization\",\"demo\"]"), "no organization");
        for (String hop : List.of("[\"upgrade\"", "[\"http2-settings\"", "[\"connection\"")) {
            check(!answer.body().contains(hop), hop + " went on");
        }
    }

    static void checkUploaded(HttpResponse<String> answer) {
        check(answer.body().contains("\"bytes\":" + bytes + ","), answer.body());
        check(answer.body().contains("\"pattern_ok\":true") && answer.body().contains(sha256), answer.body());
    }

    static void cases(String protocol, HttpClient client) {
        attempt(protocol, "the first GET, which asks for h2c", () -> {
            HttpResponse<String> answer = client.send(request("/_sim/echo?a=%20b&c").build(), BodyHandlers.ofString());
            check(answer.version() == HttpClient.Version.HTTP_1_1, "version " + answer.version());
            checkEcho(answer, "/_sim/echo?a=%20b&c");
        });
        attempt(protocol, "the first POST of a client, which asks for h2c", () -> {
            HttpClient another = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
            HttpResponse<String> answer =
                another.send(post("/_sim/echo", BodyPublishers.ofString("a body")), BodyHandlers.ofString());
            checkEcho(answer, "/_sim/echo");
            check(answer.body().contains("\"body\":\"a body\""), answer.body());
        });
        attempt(protocol, "download", () -> {
            pattern = client.send(request("/_sim/download?bytes=" + bytes).build(), BodyHandlers.ofByteArray()).body();
            check(sum(pattern).equals(sha256), "another SHA-256");
        });
        attempt(protocol, "download of unannounced length", () -> {
            HttpRequest request = request("/_sim/download?chunked=1&bytes=" + bytes).build();
            check(sum(client.send(request, BodyHandlers.ofByteArray()).body()).equals(sha256), "another SHA-256");
        });
        attempt(protocol, "upload", () -> checkUploaded(
            client.send(post("/_sim/upload", BodyPublishers.ofByteArray(pattern)), BodyHandlers.ofString())));
        attempt(protocol, "streamed upload", () -> checkUploaded(client.send(
            post("/_sim/upload", BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(pattern))), BodyHandlers.ofString())));
        attempt(protocol, "upload, Expect: 100-continue", () -> {
            HttpRequest request =
                request("/_sim/upload").expectContinue(true).POST(BodyPublishers.ofByteArray(pattern)).build();
            checkUploaded(client.send(request, BodyHandlers.ofString()));
        });
        attempt(protocol, "HEAD", () -> {
            HttpRequest request = request("/_sim/download?bytes=" + bytes).method("HEAD", BodyPublishers.noBody()).build();
            HttpResponse<byte[]> answer = client.send(request, BodyHandlers.ofByteArray());
            check(answer.headers().firstValueAsLong("content-length").orElse(-1) == bytes, "" + answer.headers().map());
            check(answer.body().length == 0, "a body");
        });
        attempt(protocol, "204, 304, 404, 500", () -> {
            for (int status : new int[] {204, 304, 404, 500}) {
                int got = client.send(request("/_sim/status/" + status).build(), BodyHandlers.discarding()).statusCode();
                check(got == status, "wanted " + status + ", got " + got);
            }
        });
        attempt(protocol, "409", () -> {
            HttpRequest request =
                post("/users", BodyPublishers.ofString("{\"email\":\"" + UUID.randomUUID() + "@example.test\"}"));
            check(client.send(request, BodyHandlers.ofString()).statusCode() == 201, "the first");
            check(client.send(request, BodyHandlers.ofString()).statusCode() == 409, "the second");
        });
        attempt(protocol, "problem+json", () -> {
            HttpResponse<String> answer =
                client.send(post("/patient/auth", BodyPublishers.ofString("{}")), BodyHandlers.ofString());
            check(answer.statusCode() == 403, "status " + answer.statusCode());
            check(answer.headers().firstValue("content-type").orElse("").equals("application/problem+json"), "its type");
            check(answer.headers().firstValue("proxy-status").orElse("").startsWith("careportals-sidecar; error="), "its cause");
            check(answer.body().contains("\"code\":\"login_path\""), answer.body());
        });
        attempt(protocol, "server-sent events", () -> {
            HttpRequest request = request("/_sim/sse?events=5&interval_ms=80").build();
            List<Long> times = client.send(request, BodyHandlers.ofLines()).body()
                .filter(line -> line.startsWith("data:")).map(line -> System.nanoTime()).toList();
            check(times.size() == 5, times.size() + " events");
            check(times.get(4) - times.get(0) > 150_000_000L, "all events came at once");
        });
        attempt(protocol, "drip", () -> {
            HttpRequest request = request("/_sim/drip?bytes=20&interval_ms=5").build();
            byte[] body = client.send(request, BodyHandlers.ofByteArray()).body();
            check(Arrays.equals(body, Arrays.copyOf(pattern, 20)), Arrays.toString(body));
        });
        attempt(protocol, "50 in parallel", () -> {
            List<CompletableFuture<Void>> all = new ArrayList<>();
            for (int number = 0; number < 50; number++) {
                String target = "/_sim/echo?number=" + number;
                String body = "number " + number;
                all.add(client.sendAsync(post(target, BodyPublishers.ofString(body)), BodyHandlers.ofString())
                    .thenAccept(answer -> {
                        checkEcho(answer, target);
                        check(answer.body().contains("\"body\":\"" + body + "\""), answer.body());
                    }));
            }
            CompletableFuture.allOf(all.toArray(CompletableFuture[]::new)).get(20, TimeUnit.SECONDS);
        });
        attempt(protocol, "a body cut short", () -> {
            for (String query : List.of("", "&chunked=1")) {
                HttpResponse<InputStream> answer =
                    client.send(request("/_sim/reset?after=1000" + query).build(), BodyHandlers.ofInputStream());
                check(answer.statusCode() == 200, "status " + answer.statusCode());
                try (InputStream body = answer.body()) {
                    throw new AssertionError("looked whole: " + body.readAllBytes().length + " bytes");
                } catch (IOException expected) {
                    // It is cut, and seen to be.
                }
            }
        });
        attempt(protocol, "a request given up", () -> {
            try {
                client.send(HttpRequest.newBuilder(URI.create(base + "/_sim/hang")).timeout(Duration.ofMillis(100)).build(),
                    BodyHandlers.discarding());
                throw new AssertionError("an answer");
            } catch (HttpTimeoutException expected) {
                check(client.send(request("/customers").build(), BodyHandlers.discarding()).statusCode() == 200, "the next");
            }
        });
    }

    /** Gathers what comes: whole messages, and how it ended. */
    static class Gathering implements WebSocket.Listener {
        final List<CompletableFuture<String>> texts = new ArrayList<>();
        final CompletableFuture<byte[]> binary = new CompletableFuture<>();
        final CompletableFuture<String> pong = new CompletableFuture<>();
        final CompletableFuture<Integer> closed = new CompletableFuture<>();
        private final StringBuilder text = new StringBuilder();
        private final java.io.ByteArrayOutputStream piled = new java.io.ByteArrayOutputStream();
        private int next;

        Gathering(int expected) {
            for (int message = 0; message < expected; message++) texts.add(new CompletableFuture<>());
        }

        @Override
        public CompletionStage<?> onText(WebSocket socket, CharSequence piece, boolean last) {
            text.append(piece);
            if (last) {
                texts.get(next++).complete(text.toString());
                text.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer piece, boolean last) {
            byte[] copy = new byte[piece.remaining()];
            piece.get(copy);
            piled.writeBytes(copy);
            if (last) binary.complete(piled.toByteArray());
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onPong(WebSocket socket, ByteBuffer message) {
            pong.complete(java.nio.charset.StandardCharsets.UTF_8.decode(message).toString());
            socket.request(1);
            return null;
        }

        @Override
        public CompletionStage<?> onClose(WebSocket socket, int status, String reason) {
            closed.complete(status);
            return null;
        }
    }

    static WebSocket open(Gathering gathering) throws Exception {
        URI url = URI.create(base.replaceFirst("http", "ws") + "/_sim/websocket");
        HttpClient client = HttpClient.newBuilder().proxy(HttpClient.Builder.NO_PROXY).build();
        return client.newWebSocketBuilder().buildAsync(url, gathering).get(20, TimeUnit.SECONDS);
    }

    static void over(WebSocket socket, Gathering gathering) throws Exception {
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "bye").get(20, TimeUnit.SECONDS);
        int status = gathering.closed.get(20, TimeUnit.SECONDS);
        check(status == WebSocket.NORMAL_CLOSURE, "closed with " + status);
    }

    static void webSockets() {
        attempt("WebSocket", "texts and a clean end", () -> {
            Gathering gathering = new Gathering(3);
            WebSocket socket = open(gathering);
            for (int message = 0; message < 3; message++) {
                String text = "Grüße " + message;
                socket.sendText(text, true).get(20, TimeUnit.SECONDS);
                check(gathering.texts.get(message).get(20, TimeUnit.SECONDS).equals(text), "another text");
            }
            over(socket, gathering);
        });
        attempt("WebSocket", "1 MiB of bytes and a ping", () -> {
            Gathering gathering = new Gathering(0);
            WebSocket socket = open(gathering);
            byte[] message = new byte[1024 * 1024];
            for (int at = 0; at < message.length; at++) message[at] = (byte) (at * 31);
            socket.sendBinary(ByteBuffer.wrap(message), true).get(20, TimeUnit.SECONDS);
            check(Arrays.equals(gathering.binary.get(20, TimeUnit.SECONDS), message), "other bytes");
            socket.sendPing(ByteBuffer.wrap("there?".getBytes())).get(20, TimeUnit.SECONDS);
            check(gathering.pong.get(20, TimeUnit.SECONDS).equals("there?"), "another pong");
            over(socket, gathering);
        });
    }
}
