# CarePortals through the sidecar, with net/http: ruby ruby-net-http.rb FILE
require "json"
require "net/http"

# The three lines that matter.
base = URI(ENV.fetch("CAREPORTALS_BASE_URL", "http://127.0.0.1:2273"))
account = Net::HTTP.start(base.hostname, base.port) { |http| http.get("#{base.path}/users/account") }
puts "account: #{account.code}"

# The rest shows escaping, bodies, streams, and whose error an error is.
$stdout.sync = true
PREFIX = base.path.chomp("/")

class CallFailed < StandardError; end

# What is no JSON comes from a gateway on the way.
def error_in(body)
  error = JSON.parse(body.to_s)
  error.is_a?(Hash) ? error : {}
rescue JSON::ParserError, EncodingError
  {}
end

# With a block the answer's body is left to be read there.
def call(http, request)
  http.request(request) do |answer|
    unless answer.is_a?(Net::HTTPSuccess)
      error = error_in(answer.read_body)
      if answer["proxy-status"].to_s.start_with?("careportals-sidecar")
        retry_after = " (retry after #{answer["retry-after"]} s)" if answer["retry-after"]
        raise CallFailed, "sidecar #{answer.code} #{error["code"]}: #{error["detail"]}#{retry_after}"
      end
      raise CallFailed, "CarePortals #{answer.code}: #{error["message"] || answer.message}"
    end
    yield answer if block_given?
  end
end

begin
  # `hostname` and not `host`, which keeps the brackets of [::1].
  Net::HTTP.start(base.hostname, base.port) do |http|
    query = URI.encode_www_form(keyword: "+15550100150")
    answer = call(http, Net::HTTP::Get.new("#{PREFIX}/customers/lookups?#{query}"))
    found = JSON.parse(answer.body).first
    puts "query: #{answer.code} #{found["firstName"]} #{found["lastName"]}"

    post = Net::HTTP::Post.new("#{PREFIX}/v2/carts", "content-type" => "application/json")
    post.body = JSON.generate(items: [{ product: "Crème", quantity: 2 }])
    answer = call(http, post)
    cart = JSON.parse(answer.body)
    item = cart["items"].first
    puts "post: #{answer.code} #{cart["status"]}, #{item["quantity"]} x #{item["product"]}"

    File.open(ARGV[0], "rb") do |file|
      upload = Net::HTTP::Post.new("#{PREFIX}/_sim/upload", "content-type" => "application/octet-stream")
      upload.body_stream = file
      upload.content_length = file.size
      answer = call(http, upload)
    end
    seen = JSON.parse(answer.body)
    puts "upload: #{answer.code} #{seen["bytes"]} bytes, #{seen["sha256"]}"

    rest = +""
    call(http, Net::HTTP::Get.new("#{PREFIX}/_sim/sse?events=3&interval_ms=100")) do |events|
      events.read_body do |piece|
        rest << piece
        while (line = rest.slice!(/.*\n/))
          puts "stream: #{line.delete_prefix("data: ")}" if line.start_with?("data: ")
        end
      end
    end

    call(http, Net::HTTP::Get.new("#{PREFIX}/customers/000000000000000000000000")) # nobody has this id
  end
rescue CallFailed => failure
  abort "error: #{failure.message}"
end
