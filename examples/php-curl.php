<?php
// CarePortals through the sidecar, with PHP's curl: php php-curl.php FILE

// The lines that matter.
$base = getenv('CAREPORTALS_BASE_URL') ?: 'http://127.0.0.1:2273';
$curl = curl_init("$base/users/account");
curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
curl_exec($curl);
echo 'account: ', curl_getinfo($curl, CURLINFO_RESPONSE_CODE), "\n";

// The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.

/** A call, with options of curl's. Returns status and body; of a success, $take is given the body piece by piece instead. */
function call(string $path, array $options = [], ?callable $take = null): array
{
    global $base, $curl; // Kept, and its connection with it.
    [$headers, $body] = [[], ''];
    curl_reset($curl);
    curl_setopt_array($curl, $options + [
        CURLOPT_URL => $base . $path,
        CURLOPT_HEADERFUNCTION => function ($curl, string $line) use (&$headers): int {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $headers[strtolower($name)] = trim($value);
            return strlen($line);
        },
        CURLOPT_WRITEFUNCTION => function ($curl, string $piece) use (&$body, $take): int {
            if ($take && curl_getinfo($curl, CURLINFO_RESPONSE_CODE) < 400) {
                $take($piece);
            } else {
                $body .= $piece;
            }
            return strlen($piece);
        },
    ]);
    if ($socket = getenv('CAREPORTALS_SOCKET')) {
        curl_setopt($curl, CURLOPT_UNIX_SOCKET_PATH, $socket);
    }
    if (!curl_exec($curl)) {
        throw new RuntimeException(curl_error($curl));
    }
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    if ($status < 400) {
        return [$status, $body];
    }
    // What is no JSON comes from a gateway on the way.
    $error = json_decode($body, true);
    $told = fn (string $name) => is_array($error) && isset($error[$name]) ? $error[$name] : "no $name";
    if (str_starts_with($headers['proxy-status'] ?? '', 'careportals-sidecar')) {
        $retry = isset($headers['retry-after']) ? " (retry after {$headers['retry-after']} s)" : '';
        throw new RuntimeException("sidecar $status {$told('code')}: {$told('detail')}$retry");
    }
    throw new RuntimeException("CarePortals $status: {$told('message')}");
}

try {
    [$status, $body] = call('/customers/lookups?' . http_build_query(['keyword' => '+15550100150']));
    $found = json_decode($body)[0];
    echo "query: $status $found->firstName $found->lastName\n";

    [$status, $body] = call('/v2/carts', [
        CURLOPT_POSTFIELDS => json_encode(['items' => [['product' => 'Crème', 'quantity' => 2]]]),
        CURLOPT_HTTPHEADER => ['content-type: application/json'],
    ]);
    $cart = json_decode($body);
    echo "post: $status $cart->status, {$cart->items[0]->quantity} x {$cart->items[0]->product}\n";

    [$status, $body] = call('/_sim/upload', [
        CURLOPT_UPLOAD => true,
        CURLOPT_CUSTOMREQUEST => 'POST', // CURLOPT_UPLOAD alone is PUT.
        CURLOPT_INFILE => fopen($argv[1], 'rb'),
        CURLOPT_INFILESIZE => filesize($argv[1]),
        CURLOPT_HTTPHEADER => ['content-type: application/octet-stream'],
    ]);
    $upload = json_decode($body);
    echo "upload: $status $upload->bytes bytes, $upload->sha256\n";

    $rest = '';
    call('/_sim/sse?events=3&interval_ms=100', take: function (string $piece) use (&$rest): void {
        $lines = explode("\n", $rest . $piece);
        $rest = array_pop($lines);
        foreach ($lines as $line) {
            if (str_starts_with($line, 'data: ')) {
                echo 'stream: ', substr($line, 6), "\n";
            }
        }
    });

    call('/customers/000000000000000000000000'); // Nobody has this id.
} catch (RuntimeException $failure) {
    fwrite(STDERR, "error: {$failure->getMessage()}\n");
    exit(1);
}
