//! What a connection over HTTP/1.1 makes of answers, whole and broken. The server is played byte by byte.

use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::upstream::Sent;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

type Scripted = Upstream<Full<Bytes>>;

struct Played {
    upstream: Scripted,
    keep_alive: KeepAlive,
    counts: Arc<ApiMetrics>,
    /// The heads of requests, each with the number of its connection.
    requests: Arc<Mutex<Vec<(usize, String)>>>,
}

/// A server that gives these answers on each connection, one for each request, and then closes it.
async fn played(answers: &[&str], head: HeadLimits) -> Played {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::<Mutex<Vec<_>>>::default();
    let (noted, answers) = (Arc::clone(&requests), answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>());
    tokio::spawn(async move {
        for number in 1.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(play(stream, number, answers.clone(), Arc::clone(&noted)));
        }
    });
    let origin = Origin { scheme: Scheme::Http, host: "127.0.0.1".into(), rooted: false, port };
    let connector = Connector::new(&origin, &unused_tls(), &Egress::default(), Duration::from_secs(5)).unwrap();
    let lifetimes = Lifetimes { idle: Duration::from_secs(60), max_age: Duration::from_secs(300) };
    let (keep_alive, counts) = (KeepAlive::default(), counts());
    let meter = counts.meter(0);
    let upstream = Upstream::new(connector, Http2::Off, head, lifetimes, Jitter::seeded(7), keep_alive.clone(), meter).unwrap();
    Played { upstream, keep_alive, counts, requests }
}

async fn play(mut stream: TcpStream, number: usize, answers: Vec<String>, requests: Arc<Mutex<Vec<(usize, String)>>>) {
    for answer in answers {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return };
            request.push(byte);
        }
        requests.lock().unwrap().push((number, String::from_utf8(request).unwrap()));
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

impl Played {
    async fn send(&self, body: &'static str) -> Result<Response<ResponseBody<Full<Bytes>>>, SendError> {
        let lease = self.upstream.lease(Reuse::Any).await.unwrap();
        let sending = lease.send(|| Ok((Request::new(Full::from(body)), ())));
        time::timeout(Duration::from_secs(10), sending).await.expect("no outcome").map(|(answer, ())| answer)
    }

    async fn whole(&self) {
        self.send("").await.unwrap().into_body().collect().await.unwrap();
    }

    /// The numbers of the connections that requests came on.
    fn connections(&self) -> Vec<usize> {
        self.requests.lock().unwrap().iter().map(|(number, _)| *number).collect()
    }
}

#[tokio::test]
async fn what_comes_in_place_of_an_answer_is_told_apart() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    let many = |lines: usize| head(&"a: b\r\n".repeat(lines));
    let limits = |bytes, lines| HeadLimits { bytes, lines };
    for (answer, head, expected) in [
        (String::new(), LIMITS, Some(Cause::Closed)),
        ("HTTP/1.1 2".to_owned(), LIMITS, Some(Cause::BrokenOff)),
        ("HTTP/1.1 103 Early Hints\r\n\r\n".to_owned(), LIMITS, Some(Cause::BrokenOff)),
        ("nonsense\r\n\r\n".to_owned(), LIMITS, Some(Cause::Protocol)),
        ("HTTP/1.1 2x0 OK\r\n\r\n".to_owned(), LIMITS, Some(Cause::Protocol)),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(), LIMITS, Some(Cause::Protocol)),
        (head("Content-Length: 99999999999999999999999\r\n"), LIMITS, Some(Cause::Protocol)),
        (head(&format!("a: {}\r\n", "x".repeat(70_000))), LIMITS, Some(Cause::HeadTooLarge)),
        (many(99), LIMITS, None),
        (many(101), LIMITS, Some(Cause::HeadTooLarge)),
        (many(5), limits(64 * 1024, 5), None),
        (many(6), limits(64 * 1024, 5), Some(Cause::HeadTooLarge)),
        (many(150), limits(64 * 1024, 200), None),
    ] {
        let played = played(&[&answer], head).await;
        let outcome = played.send("").await.map(drop);
        let expected = expected.map_or(Ok(()), |cause| Err(SendError { cause, sent: Sent::Something }));
        assert_eq!(outcome, expected, "{} lines, {:?}", answer.lines().count(), answer.get(..40));
    }
}

#[tokio::test]
async fn on_a_used_connection_what_is_no_answer_is_the_rest_of_an_earlier_one() {
    for (second, expected) in [
        ("", Cause::Closed),
        ("HTTP/1.1 2", Cause::BrokenOff),
        ("nonsense\r\n\r\n", Cause::Surplus),
        ("HTTP/1.1 2x0 OK\r\n\r\n", Cause::Surplus),
        ("HTTP/1.1 200 OK\r\nno field\r\n\r\n", Cause::Protocol),
    ] {
        let played = played(&[OK, second], LIMITS).await;
        played.whole().await;
        assert_eq!(played.send("").await.map(drop), Err(SendError { cause: expected, sent: Sent::Something }), "{second:?}");
        assert_eq!(played.connections(), [1, 1]);
    }
}

#[tokio::test]
async fn only_used_connections_that_close_without_an_answer_teach_that_a_server_takes_one_request() {
    for (answers, learns) in [(&[OK, ""][..], true), (&[""], false), (&[OK, "nonsense\r\n\r\n"], false)] {
        let played = played(answers, LIMITS).await;
        for _ in 0..2 {
            for _ in answers {
                if let Ok(answer) = played.send("").await {
                    answer.into_body().collect().await.unwrap();
                }
            }
            pass(Duration::from_millis(1100)).await;
        }
        assert_eq!(played.keep_alive.safe_idle() < Duration::from_secs(1), learns, "{answers:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_only_when_its_answer_was_read_to_the_end_and_began_as_one() {
    let body = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 6\r\n\r\n";
    let odd = "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    for (first, read_frames, is_kept) in
        [(OK, 0, true), (body, 0, false), (body, 1, true), (chunked, 1, false), (chunked, 2, true), (odd, 1, false)]
    {
        let played = played(&[first, OK], LIMITS).await;
        let mut answer = played.send("").await.unwrap().into_body();
        for _ in 0..read_frames {
            answer.frame().await.transpose().unwrap();
        }
        assert_eq!(answer.is_end_stream(), is_kept || first == odd, "{first:?} {read_frames}");
        drop(answer);
        assert_eq!(played.counts.connections(), (0, u64::from(is_kept)), "{first:?} {read_frames}");
    }
}

#[tokio::test]
async fn an_answer_says_how_long_it_is() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for (answer, exact) in [(OK, Some(0)), ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Some(5)), (chunked, None)] {
        let answered = played(&[answer], LIMITS).await.send("").await.unwrap();
        assert_eq!(answered.body().size_hint().exact(), exact, "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_without_a_body_announces_none_and_another_one_its_length() {
    for (body, length) in [("", None), ("four", Some("content-length: 4"))] {
        let played = played(&[OK], LIMITS).await;
        played.send(body).await.unwrap();
        let requests = played.requests.lock().unwrap();
        let [(_, request)] = requests.as_slice() else { panic!("{requests:?}") };
        let framing = request.lines().find(|line| line.starts_with("content-length") || line.starts_with("transfer-encoding"));
        assert_eq!(framing, length, "{request}");
    }
}
