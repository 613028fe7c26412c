// CarePortals through the sidecar, with java.net.http (17 or later): java JavaHttpClient.java FILE
import static java.net.http.HttpRequest.BodyPublishers.ofFile;
import static java.net.http.HttpRequest.BodyPublishers.ofString;

import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

public class JavaHttpClient {
    static final String BASE = Optional.ofNullable(System.getenv("CAREPORTALS_BASE_URL")).orElse("http://127.0.0.1:2273");
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] args) throws Exception {
        // The lines that matter.
        var account = CLIENT.send(HttpRequest.newBuilder(URI.create(BASE + "/users/account")).build(), BodyHandlers.ofString());
        System.out.println("account: " + account.statusCode());

        // The rest shows escaping, bodies, streams, and whose error an error is.
        try {
            var keyword = URLEncoder.encode("+15550100150", StandardCharsets.UTF_8);
            var answer = call(request("/customers/lookups?keyword=" + keyword));
            var found = text(answer);
            System.out.println("query: " + answer.statusCode() + " " + field(found, "firstName") + " " + field(found, "lastName"));

            var items = "{\"items\": [{\"product\": \"Crème\", \"quantity\": 2}]}";
            answer = call(request("/v2/carts").header("content-type", "application/json").POST(ofString(items)));
            var cart = text(answer);
            System.out.println("post: " + answer.statusCode() + " " + field(cart, "status") + ", "
                + field(cart, "quantity") + " x " + field(cart, "product"));

            var file = ofFile(Path.of(args[0]));
            answer = call(request("/_sim/upload").header("content-type", "application/octet-stream").POST(file));
            var upload = text(answer);
            System.out.println("upload: " + answer.statusCode() + " " + field(upload, "bytes") + " bytes, " + field(upload, "sha256"));

            call(request("/_sim/sse?events=3&interval_ms=100")).body()
                .filter(line -> line.startsWith("data: "))
                .forEach(line -> System.out.println("stream: " + line.substring(6)));

            call(request("/customers/000000000000000000000000")); // nobody has this id
        } catch (CallFailed failed) {
            System.err.println("error: " + failed.getMessage());
            System.exit(1);
        }
    }

    static class CallFailed extends Exception {
        CallFailed(String message) {
            super(message);
        }
    }

    static HttpRequest.Builder request(String path) {
        return HttpRequest.newBuilder(URI.create(BASE + path));
    }

    /** The answer's lines, as they come. */
    static HttpResponse<Stream<String>> call(HttpRequest.Builder request) throws Exception {
        var answer = CLIENT.send(request.build(), BodyHandlers.ofLines());
        if (answer.statusCode() < 400) return answer;
        var body = text(answer);
        var headers = answer.headers();
        if (headers.firstValue("proxy-status").orElse("").startsWith("careportals-sidecar")) {
            var retry = headers.firstValue("retry-after").map(after -> " (retry after " + after + " s)").orElse("");
            throw new CallFailed("sidecar " + answer.statusCode() + " " + field(body, "code") + ": " + field(body, "detail") + retry);
        }
        throw new CallFailed("CarePortals " + answer.statusCode() + ": " + field(body, "message"));
    }

    static String text(HttpResponse<Stream<String>> answer) {
        return answer.body().collect(Collectors.joining("\n"));
    }

    /** Java brings no JSON along; your app has Jackson or the like. */
    static String field(String json, String name) {
        var found = Pattern.compile("\"" + name + "\"\\s*:\\s*(?:\"([^\"]*)\"|(\\d+))").matcher(json);
        if (!found.find()) return "no " + name; // What is no JSON comes from a gateway on the way.
        return found.group(1) != null ? found.group(1) : found.group(2);
    }
}
