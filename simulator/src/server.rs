//! Accepting connections and serving them: TLS, then HTTP/1.1 or HTTP/2.

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
    answer::{Body, Exchange, Received, Sending, set, without_body},
    clock,
    line::{Line, Socket},
    record::Record,
    routes,
    state::Shared,
    tls::Tls,
};

/// A client that does not finish its handshake is let go.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptors left): time for some to be given back.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Room for the largest heads a client may want to try.
const HEAD_BYTES: u32 = 1024 * 1024;
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Accepts until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, tls: Tls, shared: Arc<Shared>) -> Infallible {
    loop {
        let accepted = listener.accept().await;
        // Asked after the accept, too: what comes during a pause is not served before its end.
        let _ = shared.accepting.subscribe().wait_for(|accepting| *accepting).await;
        match accepted {
            Ok((tcp, _)) => {
                shared.ledger.count(|counts| counts.connections += 1);
                let http2 = shared.settings(|settings| settings.http2);
                let config = if http2 { &tls.with_http2 } else { &tls.http1_only };
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                tokio::spawn(connection(Arc::clone(&shared), acceptor, tcp));
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
        }
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, tcp: TcpStream) {
    let place = shared.lines.open();
    let line = Arc::clone(&place.line);
    // Without it answers are only slower.
    let _ = tcp.set_nodelay(true);
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)) => handshake,
        () = line.severed() => return,
    };
    let Ok(Ok(tls)) = handshake else {
        shared.ledger.count(|counts| counts.handshakes_failed += 1);
        return;
    };
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    shared.ledger.count(|counts| *(if resumed { &mut counts.handshakes_resumed } else { &mut counts.handshakes_full }) += 1);
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let socket = TokioIo::new(Socket::new(tls, place));
    let service = {
        let (shared, line) = (Arc::clone(&shared), Arc::clone(&line));
        service_fn(move |request| serve(Arc::clone(&shared), Arc::clone(&line), request))
    };
    if http2 {
        shared.ledger.count(|counts| counts.connections_http2 += 1);
        let streams = shared.settings(|settings| settings.max_concurrent_streams);
        let served = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(streams)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .max_header_list_size(HEAD_BYTES)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .serve_connection(socket, service);
        drive(served, http2::Connection::graceful_shutdown, &line, shared.keep_alive_for).await;
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .auto_date_header(false)
            .max_buf_size(HEAD_BYTES as usize)
            .max_headers(4096)
            .serve_connection(socket, service)
            .with_upgrades();
        let shut = http1::UpgradeableConnection::graceful_shutdown;
        drive(served, shut, &line, shared.keep_alive_for).await;
    }
}

/// Drives a connection to its end: its own, a cut, a drain, or too long an idleness.
async fn drive<C: Future>(served: C, shut: impl Fn(Pin<&mut C>), line: &Line, keep_alive_for: Option<Duration>) {
    let mut served = pin!(served);
    let mut severed = pin!(line.severed());
    let mut enough = pin!(async {
        tokio::select! {
            () = idle_for(line, keep_alive_for) => {}
            () = line.drained() => {}
        }
    });
    let mut tired = false;
    loop {
        tokio::select! {
            // How a client ends its connection, in order or not, is its business.
            _ = &mut served => return,
            () = &mut severed => return,
            () = &mut enough, if !tired => {
                tired = true;
                shut(served.as_mut());
            }
        }
    }
}

/// Ends when no request was served for so long.
async fn idle_for(line: &Line, limit: Option<Duration>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        // While a request is served the whole time is still to come.
        let idle_since = line.idle_since().unwrap_or_else(clock::instant);
        let deadline = idle_since + limit;
        if deadline <= clock::instant() {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// Serves one request, whatever it is.
async fn serve(shared: Arc<Shared>, line: Arc<Line>, request: Request<Incoming>) -> Result<Response<Sending>, Infallible> {
    let (head, incoming) = request.into_parts();
    let head_only = head.method == Method::HEAD;
    let record = (!routes::is_log_in(&head)).then(|| Arc::new(Record::of(&head)));
    if let Some(record) = &record {
        shared.ledger.keep(Arc::clone(record));
    }
    // From here on: a client that goes away before its answer ends the exchange, too.
    let exchange = Exchange { record: record.clone(), shared: Arc::clone(&shared), in_flight: Some(line.begin()) };
    let body = Received::new(incoming, record.map(|record| (record, Arc::clone(&shared))));
    let request = Request::from_parts(head, body);
    let response = if exchange.record.is_none() {
        routes::log_in(&shared, &line, request).await
    } else {
        routes::serve(&shared, &line, request).await
    };
    Ok(finish(response, head_only, exchange))
}

/// What every answer gets.
fn finish(mut response: Response<Body>, head_only: bool, exchange: Exchange) -> Response<Sending> {
    let shared = &exchange.shared;
    if !shared.settings(|settings| settings.omit_date) {
        set(&mut response, DATE, &httpdate::fmt_http_date(shared.now()));
    }
    if let Some(record) = &exchange.record {
        record.status.store(response.status().as_u16(), Ordering::Release);
    }
    shared.ledger.touch();
    if head_only {
        response = without_body(response);
    }
    response.map(|body| Sending::new(body, exchange))
}
