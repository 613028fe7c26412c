//! Answers the awkward endpoints under `/_sim/`: the responses that a client or a proxy must survive.
//!
//! Their calls are admitted like all others. `bodies.rs` has unusual bodies, `heads.rs` unusual heads, `wire.rs` misuse of the
//! connection, `websocket.rs` the echo; none of the four uses another.

mod bodies;
mod heads;
mod websocket;
mod wire;

use hyper::{Request, Response, StatusCode};

use crate::{
    body::RequestBody,
    call::Call,
    response::{ResponseBody, message},
};

/// The names of all awkward endpoints.
pub(crate) const NAMES: [&str; 23] = [
    "always-401",
    "cookies",
    "download",
    "drip",
    "early",
    "echo",
    "garbage",
    "gzip",
    "hang",
    "headers",
    "hop-by-hop",
    "informational",
    "leak",
    "mirror",
    "redirect",
    "reset",
    "reset-before",
    "slow-read",
    "sse",
    "status",
    "trailers",
    "upload",
    "websocket",
];

/// Serves the endpoint of this name.
pub(crate) async fn serve(call: Call, name: String, request: Request<RequestBody>) -> Response<ResponseBody> {
    match name.as_str() {
        "echo" => bodies::echo(request).await,
        "mirror" => bodies::mirror(request),
        "sse" => bodies::events(&request),
        "drip" => bodies::drip(&call, &request),
        "download" => bodies::download(&call, &request),
        "upload" => bodies::upload(&call, request).await,
        "slow-read" => bodies::slow_read(request).await,
        "trailers" => bodies::trailers(request).await,
        "gzip" => bodies::gzip(),
        "early" => wire::early(&call, request),
        "reset" => wire::reset(&call, &request),
        "reset-before" => wire::reset_before(&call, &request).await,
        "hang" => wire::hang().await,
        "garbage" => wire::garbage(&call),
        "informational" => wire::informational(&call, &request),
        "always-401" => heads::always_unauthorized(request).await,
        "cookies" => heads::cookies(),
        "redirect" => heads::redirect(&call, &request),
        "leak" => heads::leak(&call),
        "headers" => heads::many(&request),
        "hop-by-hop" => heads::hop_by_hop(),
        "status" => heads::status(request).await,
        "websocket" => websocket::upgrade(&call, request),
        _ => message(StatusCode::NOT_FOUND, "Not Found"),
    }
}
