//! Accepts connections and serves them: TLS, then HTTP/1.1 or HTTP/2.
//!
//! It uses the router for requests and the registry for connections. Every request gets exactly one record, but for log-ins,
//! which the log-in records itself.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::DATE,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::HandshakeKind;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{
    body::{Exchange, RecordedBody, RequestBody},
    clock,
    connection::{ConnectionHandle, ControlledStream},
    record::LiveRequest,
    response::{ResponseBody, set_header, without_body},
    router,
    state::SimulatorState,
    tls::TlsConfigs,
};

/// The time-out for a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after a failed accept, so that descriptors can be freed (EMFILE).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// The limit for a request's head, in bytes; large, so that clients can try large heads.
const MAX_HEAD_BYTES: u32 = 1024 * 1024;
/// The limit for the number of fields in an HTTP/1.1 head.
const MAX_FIELDS: usize = 4096;
/// HTTP/2 flow-control windows, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Accepts connections until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, tls: TlsConfigs, state: Arc<SimulatorState>) -> Infallible {
    loop {
        let accepted = listener.accept().await;
        // A connection that was accepted when a pause began waits for the end of the pause.
        let _ = state.accepting.subscribe().wait_for(|accepting| *accepting).await;
        match accepted {
            Ok((tcp, _)) => {
                state.recorder.count(|counts| counts.connections += 1);
                let http2 = state.settings(|settings| settings.http2);
                let config = if http2 { &tls.with_http2 } else { &tls.http1_only };
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                tokio::spawn(serve_connection(Arc::clone(&state), acceptor, tcp));
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

/// Serves one connection from its handshake to its end.
async fn serve_connection(state: Arc<SimulatorState>, acceptor: TlsAcceptor, tcp: TcpStream) {
    let entry = state.connections.add();
    let connection = Arc::clone(&entry.connection);
    // If the option cannot be set, responses are slower and otherwise the same.
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)) => handshake,
        () = connection.aborted() => return,
    };
    let Ok(Ok(tls)) = handshake else {
        state.recorder.count(|counts| counts.handshakes_failed += 1);
        return;
    };
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    state.recorder.count(|counts| *(if resumed { &mut counts.handshakes_resumed } else { &mut counts.handshakes_full }) += 1);
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let socket = TokioIo::new(ControlledStream::new(tls, entry));
    let service = {
        let (state, connection) = (Arc::clone(&state), Arc::clone(&connection));
        service_fn(move |request| serve_request(Arc::clone(&state), Arc::clone(&connection), request))
    };
    if http2 {
        state.recorder.count(|counts| counts.connections_http2 += 1);
        let streams = state.settings(|settings| settings.max_concurrent_streams);
        let served = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(streams)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_header_list_size(MAX_HEAD_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(socket, service);
        drive(served, http2::Connection::graceful_shutdown, &connection, state.keep_alive_for).await;
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .auto_date_header(false)
            .max_buf_size(MAX_HEAD_BYTES as usize)
            .max_headers(MAX_FIELDS)
            .serve_connection(socket, service)
            .with_upgrades();
        let shut_down = http1::UpgradeableConnection::graceful_shutdown;
        drive(served, shut_down, &connection, state.keep_alive_for).await;
    }
}

/// Drives a connection until it ends or is aborted; shuts it down gracefully when it is drained or idle for too long.
async fn drive<C: Future>(
    served: C,
    shut_down: impl Fn(Pin<&mut C>),
    connection: &ConnectionHandle,
    keep_alive_for: Option<Duration>,
) {
    let mut served = pin!(served);
    let mut aborted = pin!(connection.aborted());
    let mut idle_or_drained = pin!(async {
        tokio::select! {
            () = idle_for(connection, keep_alive_for) => {}
            () = connection.drained() => {}
        }
    });
    let mut shutting_down = false;
    loop {
        tokio::select! {
            // An error only means that the client is gone.
            _ = &mut served => return,
            () = &mut aborted => return,
            () = &mut idle_or_drained, if !shutting_down => {
                shutting_down = true;
                shut_down(served.as_mut());
            }
        }
    }
}

/// Returns when no request was in flight for `limit`; never without a limit.
async fn idle_for(connection: &ConnectionHandle, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        // While a request is in flight, the earliest deadline is the whole limit from now.
        let idle_since = connection.idle_since().unwrap_or_else(clock::instant);
        let deadline = idle_since + limit;
        if deadline <= clock::instant() {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// Serves one request.
async fn serve_request(
    state: Arc<SimulatorState>,
    connection: Arc<ConnectionHandle>,
    request: Request<Incoming>,
) -> Result<Response<RecordedBody>, Infallible> {
    let (head, incoming) = request.into_parts();
    let head_only = head.method == Method::HEAD;
    let record = (!router::is_log_in(&head)).then(|| Arc::new(LiveRequest::new(&head)));
    if let Some(record) = &record {
        state.recorder.keep_request(Arc::clone(record));
    }
    // The exchange begins before the response exists, so that it also ends when the client leaves early.
    let mut exchange = Exchange {
        record: record.clone(),
        state: Arc::clone(&state),
        in_flight: Some(connection.begin()),
        method: head.method.clone(),
        route: head.uri.path().to_owned(),
        status: None,
    };
    let body = RequestBody::new(incoming, record.map(|record| (record, Arc::clone(&state))));
    let request = Request::from_parts(head, body);
    let response = if exchange.record.is_none() {
        router::serve_log_in(&state, &connection, request).await
    } else {
        let route = router::find(&state, &request);
        route.path().clone_into(&mut exchange.route);
        router::serve_call(&state, &connection, route, request).await
    };
    exchange.status = Some(response.status().as_u16());
    Ok(finish(response, head_only, exchange))
}

/// Adds what every response has: `Date`, and a body that is recorded.
fn finish(mut response: Response<ResponseBody>, head_only: bool, exchange: Exchange) -> Response<RecordedBody> {
    let state = &exchange.state;
    if !state.settings(|settings| settings.omit_date) {
        set_header(&mut response, DATE, &httpdate::fmt_http_date(state.now()));
    }
    if let Some(record) = &exchange.record {
        record.status.store(response.status().as_u16(), Ordering::Release);
    }
    state.recorder.notify();
    if head_only {
        response = without_body(response);
    }
    response.map(|body| RecordedBody::new(body, exchange))
}
