# CarePortals through the sidecar, with excon: ruby ruby-excon.rb FILE
require "excon"
require "json"

# The three lines that matter.
base = URI(ENV.fetch("CAREPORTALS_BASE_URL", "http://127.0.0.1:2273"))
account = Excon.get("#{base}/users/account")
puts "account: #{account.status}"

# The rest shows escaping, bodies, streams, a Unix socket, and whose error an error is.
$stdout.sync = true
PREFIX = base.path.chomp("/")
socket = ENV["CAREPORTALS_SOCKET"]
CONNECTION = socket ? Excon.new("unix:///", socket: socket, persistent: true) : Excon.new(base.to_s, persistent: true)

class CallFailed < StandardError; end

# What is no JSON comes from a gateway on the way.
def error_in(body)
  error = JSON.parse(body.to_s)
  error.is_a?(Hash) ? error : {}
rescue JSON::ParserError, EncodingError
  {}
end

def call(method, path, **options)
  # With `expects` a response_block is given successes only.
  CONNECTION.request(method: method, path: PREFIX + path, expects: (200..399).to_a, **options)
rescue Excon::Error::HTTPStatus => failure
  answer = failure.response
  error = error_in(answer.body)
  if answer.headers["proxy-status"].to_s.start_with?("careportals-sidecar")
    retry_after = " (retry after #{answer.headers["retry-after"]} s)" if answer.headers["retry-after"]
    raise CallFailed, "sidecar #{answer.status} #{error["code"]}: #{error["detail"]}#{retry_after}"
  end
  raise CallFailed, "CarePortals #{answer.status}: #{error["message"] || answer.reason_phrase}"
end

begin
  answer = call(:get, "/customers/lookups", query: { keyword: "+15550100150" })
  found = JSON.parse(answer.body).first
  puts "query: #{answer.status} #{found["firstName"]} #{found["lastName"]}"

  items = JSON.generate(items: [{ product: "Crème", quantity: 2 }])
  answer = call(:post, "/v2/carts", body: items, headers: { "content-type" => "application/json" })
  cart = JSON.parse(answer.body)
  item = cart["items"].first
  puts "post: #{answer.status} #{cart["status"]}, #{item["quantity"]} x #{item["product"]}"

  File.open(ARGV[0], "rb") do |file|
    answer = call(:post, "/_sim/upload", body: file, headers: { "content-type" => "application/octet-stream" })
  end
  seen = JSON.parse(answer.body)
  puts "upload: #{answer.status} #{seen["bytes"]} bytes, #{seen["sha256"]}"

  rest = +""
  each_piece = lambda do |piece, _left, _total|
    rest << piece
    while (line = rest.slice!(/.*\n/))
      puts "stream: #{line.delete_prefix("data: ")}" if line.start_with?("data: ")
    end
  end
  call(:get, "/_sim/sse", query: { events: 3, interval_ms: 100 }, response_block: each_piece)

  call(:get, "/customers/000000000000000000000000") # nobody has this id
rescue CallFailed => failure
  abort "error: #{failure.message}"
end
