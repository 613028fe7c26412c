// CarePortals through the sidecar, with HttpClient: dotnet run --project examples/dotnet FILE
using System;
using System.IO;
using System.Linq;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using System.Threading.Tasks;
#if NET5_0_OR_GREATER
using System.Net.Sockets;
#endif

class CallFailed : Exception
{
    public CallFailed(string message) : base(message) { }
}

static class Program
{
    static readonly string Base = Environment.GetEnvironmentVariable("CAREPORTALS_BASE_URL") ?? "http://127.0.0.1:2273";
    static readonly HttpClient Client = new HttpClient(Handler());

    internal static async Task<int> Main(string[] args)
    {
        // The lines that matter.
        var account = await new HttpClient().GetAsync(Base + "/users/account");
        Console.WriteLine($"account: {(int)account.StatusCode}");

        // The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
        try
        {
            var answer = await Call(HttpMethod.Get, "/customers/lookups?keyword=" + Uri.EscapeDataString("+15550100150"));
            var found = (await Json(answer))[0];
            Console.WriteLine($"query: {(int)answer.StatusCode} {found.GetProperty("firstName")} {found.GetProperty("lastName")}");

            var items = JsonSerializer.Serialize(new { items = new[] { new { product = "Crème", quantity = 2 } } });
            answer = await Call(HttpMethod.Post, "/v2/carts", new StringContent(items, Encoding.UTF8, "application/json"));
            var cart = await Json(answer);
            var item = cart.GetProperty("items")[0];
            Console.WriteLine($"post: {(int)answer.StatusCode} {cart.GetProperty("status")}, {item.GetProperty("quantity")} x {item.GetProperty("product")}");

            using (var file = File.OpenRead(args[0]))
            {
                var content = new StreamContent(file);
                content.Headers.ContentType = new MediaTypeHeaderValue("application/octet-stream");
                answer = await Call(HttpMethod.Post, "/_sim/upload", content);
            }
            var upload = await Json(answer);
            Console.WriteLine($"upload: {(int)answer.StatusCode} {upload.GetProperty("bytes")} bytes, {upload.GetProperty("sha256")}");

            answer = await Call(HttpMethod.Get, "/_sim/sse?events=3&interval_ms=100");
            using (var lines = new StreamReader(await answer.Content.ReadAsStreamAsync()))
            {
                string line;
                while ((line = await lines.ReadLineAsync()) != null)
                    if (line.StartsWith("data: ")) Console.WriteLine("stream: " + line.Substring(6));
            }

            await Call(HttpMethod.Get, "/customers/000000000000000000000000"); // Nobody has this id.
            return 0;
        }
        catch (CallFailed failed)
        {
            Console.Error.WriteLine("error: " + failed.Message);
            return 1;
        }
    }

    static HttpMessageHandler Handler()
    {
        var handler = new SocketsHttpHandler();
#if NET5_0_OR_GREATER
        if (Environment.GetEnvironmentVariable("CAREPORTALS_SOCKET") is string path)
        {
            handler.ConnectCallback = async (_, cancelled) =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancelled);
                return new NetworkStream(socket, ownsSocket: true);
            };
        }
#endif
        return handler;
    }

    /// The answer once its head is there; its body is read by whoever wants it.
    static async Task<HttpResponseMessage> Call(HttpMethod method, string path, HttpContent content = null)
    {
        var request = new HttpRequestMessage(method, Base + path) { Content = content };
        var answer = await Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        if (answer.IsSuccessStatusCode) return answer;

        var status = (int)answer.StatusCode;
        var error = default(JsonElement);
        try { error = await Json(answer); }
        catch (JsonException) { } // What is no JSON comes from a gateway on the way.
        if (Header(answer, "Proxy-Status").StartsWith("careportals-sidecar"))
        {
            var after = Header(answer, "Retry-After");
            var retry = after == "" ? "" : $" (retry after {after} s)";
            throw new CallFailed($"sidecar {status} {Field(error, "code")}: {Field(error, "detail")}{retry}");
        }
        throw new CallFailed($"CarePortals {status}: {Field(error, "message")}");
    }

    static string Field(JsonElement error, string name) =>
        error.ValueKind == JsonValueKind.Object && error.TryGetProperty(name, out var value) ? value.ToString() : "no " + name;

    static string Header(HttpResponseMessage answer, string name) =>
        answer.Headers.TryGetValues(name, out var values) ? values.First() : "";

    static async Task<JsonElement> Json(HttpResponseMessage answer)
    {
        using (var document = JsonDocument.Parse(await answer.Content.ReadAsStringAsync()))
            return document.RootElement.Clone();
    }
}
