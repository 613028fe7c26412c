//! What is kept of a body, who may read it, and what it waits for.

use std::future::poll_fn;

use http::HeaderValue;
use tokio::{
    io::{AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};

use super::*;

/// The body of a request with this framing. What is written to the stream comes as more of it.
async fn uploading(framing: &str, body: &str, replay_buffer: usize) -> (Upload, DuplexStream) {
    let (mut client, ours) = duplex(64 * 1024);
    let request = format!("POST / HTTP/1.1\r\nhost: localhost\r\n{framing}\r\n\r\n{body}");
    client.write_all(request.as_bytes()).await.unwrap();
    let rules = HeaderRules::new(&headers::tests::api(), HeaderValue::from_static("api.example.com"));
    (Upload::new(RequestBody::of_request_on(ours).await, Arc::new(rules), NamedByConnection::default(), replay_buffer), client)
}

type Polled = Option<Result<Frame<Bytes>, UploadError>>;

async fn next(attempt: &mut Coalesced<UploadAttempt>) -> Polled {
    let frame = poll_fn(|cx| Pin::new(&mut *attempt).poll_frame(cx));
    timeout(Duration::from_secs(10), frame).await.expect("no frame")
}

/// Whether a frame comes at once.
async fn comes(attempt: &mut Coalesced<UploadAttempt>) -> bool {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *attempt).poll_frame(cx).is_ready())).await
}

/// Reads an attempt to its end: the bytes, and the value of the trailer `x-sum`.
async fn whole(attempt: &mut Coalesced<UploadAttempt>) -> (String, Option<String>) {
    let (mut bytes, mut sum) = (Vec::new(), None);
    while !attempt.is_end_stream()
        && let Some(frame) = next(attempt).await
    {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap();
                assert!(!trailers.contains_key("authorization"), "a trailer that the sidecar owns");
                sum = Some(trailers["x-sum"].to_str().unwrap().to_owned());
            }
        }
    }
    assert!(attempt.is_end_stream());
    (String::from_utf8(bytes).unwrap(), sum)
}

const CHUNKED: &str = "transfer-encoding: chunked\r\ntrailer: x-sum";
const CHUNKS: &str = "2\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 6\r\nauthorization: mine\r\n\r\n";

#[tokio::test]
async fn a_body_is_sent_again_as_it_came_as_long_as_all_of_it_is_kept() {
    for (framing, body, sum) in [("content-length: 5", "hello", None), (CHUNKED, CHUNKS, Some("6".to_owned()))] {
        for (replay_buffer, is_kept) in [(4, false), (5, true), (6, true), (0, false)] {
            let (upload, _client) = uploading(framing, body, replay_buffer).await;
            assert!(upload.is_at_hand() && !upload.has_ended());
            let mut first = upload.attempt().unwrap();
            assert_eq!(whole(&mut first).await, ("hello".to_owned(), sum.clone()));
            assert_eq!((upload.bytes(), upload.has_ended(), upload.is_at_hand()), (5, true, is_kept), "{replay_buffer}");
            let again = upload.attempt();
            assert_eq!(again.is_some(), is_kept, "{replay_buffer}");
            if let Some(mut again) = again {
                assert_eq!(whole(&mut again).await, ("hello".to_owned(), sum.clone()));
                assert!(next(&mut again).await.is_none());
            }
            upload.forget();
            assert!(upload.attempt().is_none() && !upload.is_at_hand());
        }
    }
}

#[tokio::test]
async fn an_attempt_begins_with_what_is_kept_and_the_one_before_it_reads_no_further() {
    let (upload, mut client) = uploading("content-length: 5", "he", 64).await;
    let mut first = upload.attempt().unwrap();
    assert_eq!(first.size_hint().exact(), Some(5));
    assert_eq!(next(&mut first).await.unwrap().unwrap().into_data().unwrap(), "he");
    assert_eq!(first.size_hint().exact(), Some(3));
    let mut second = upload.attempt().unwrap();
    assert_eq!(second.size_hint().exact(), Some(5));
    assert_eq!(next(&mut first).await.map(|frame| frame.map(drop)), Some(Err(UploadError::Superseded)));
    client.write_all(b"llo").await.unwrap();
    assert_eq!(whole(&mut second).await, ("hello".to_owned(), None));
    assert!(!first.is_end_stream(), "it has not sent the body");
}

#[tokio::test]
async fn a_body_without_a_length_announces_none() {
    let (upload, _client) = uploading(CHUNKED, CHUNKS, 64).await;
    assert_eq!(upload.attempt().unwrap().size_hint().exact(), None);
    assert_eq!((ToUpstream::Empty.size_hint().exact(), ToUpstream::Empty.is_end_stream()), (Some(0), true));
}

#[tokio::test]
async fn a_client_that_goes_away_breaks_its_body_off() {
    let (upload, client) = uploading("content-length: 5", "he", 64).await;
    let mut attempt = upload.attempt().unwrap();
    assert!(next(&mut attempt).await.unwrap().is_ok());
    drop(client);
    assert_eq!(next(&mut attempt).await.map(|frame| frame.map(drop)), Some(Err(UploadError::Client)));
    assert!(!upload.has_ended() && !attempt.is_end_stream());
    assert!(!upload.is_at_hand(), "it is not worth sending again");
}

#[tokio::test]
async fn a_body_that_broke_off_is_whole_in_no_later_attempt() {
    for framing in ["content-length: 5", "transfer-encoding: chunked"] {
        let begun = if framing.starts_with('c') { "he" } else { "2\r\nhe\r\n" };
        let (upload, client) = uploading(framing, begun, 64).await;
        let mut first = upload.attempt().unwrap();
        assert!(next(&mut first).await.unwrap().is_ok());
        drop(client);
        assert_eq!(next(&mut first).await.map(|frame| frame.map(drop)), Some(Err(UploadError::Client)));
        let mut second = upload.attempt().unwrap();
        assert_eq!(next(&mut second).await.unwrap().unwrap().into_data().unwrap(), "he");
        for _ in 0..2 {
            assert_eq!(next(&mut second).await.map(|frame| frame.map(drop)), Some(Err(UploadError::Client)), "{framing}");
        }
        assert!(!second.is_end_stream() && !upload.has_ended());
    }
}

#[tokio::test]
async fn the_exchange_waits_for_the_client_until_the_body_has_come_and_for_the_upstream_until_it_has_taken_it() {
    let (upload, mut client) = uploading("content-length: 5", "he", 64).await;
    let waits_for = || upload.waits_for().0;
    assert_eq!(waits_for(), WaitsFor::Upstream);
    let mut attempt = upload.attempt().unwrap();
    assert!(comes(&mut attempt).await);
    assert_eq!(waits_for(), WaitsFor::Upstream, "it has not asked for more");
    assert!(!comes(&mut attempt).await);
    let (what, since) = upload.waits_for();
    assert_eq!(what, WaitsFor::Client);
    assert!(!comes(&mut attempt).await);
    assert_eq!(upload.waits_for(), (what, since), "still");
    client.write_all(b"llo").await.unwrap();
    assert!(next(&mut attempt).await.is_some());
    assert_eq!(waits_for(), WaitsFor::Answer);
    let mut again = upload.attempt().unwrap();
    assert_eq!(waits_for(), WaitsFor::Upstream, "it begins anew");
    whole(&mut again).await;
    assert_eq!(waits_for(), WaitsFor::Answer);
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_is_thrown_away_until_it_ends_or_five_seconds_have_passed() {
    let deadlines = Deadlines::default();
    let looking = deadlines.clone();
    tokio::spawn(async move { looking.run().await });
    for (rest, takes) in [("llo", Duration::ZERO..Duration::from_secs(1)), ("l", Duration::from_secs(5)..Duration::from_secs(6))]
    {
        let (upload, mut client) = uploading("content-length: 5", "he", 64).await;
        let mut attempt = upload.attempt().unwrap();
        assert!(next(&mut attempt).await.is_some());
        client.write_all(rest.as_bytes()).await.unwrap();
        let began = clock::instant();
        upload.clone().discard_upload(deadlines.clone()).await;
        assert!(takes.contains(&began.elapsed()), "{rest}: {:?}", began.elapsed());
        assert_eq!(upload.bytes(), 2 + rest.len() as u64);
        assert!(!upload.is_at_hand());
        assert_eq!(next(&mut attempt).await.map(|frame| frame.map(drop)), Some(Err(UploadError::Superseded)));
    }
}

#[test]
fn what_is_kept_of_many_small_frames_is_all_of_them_in_few_blocks_within_the_limit() {
    for (sizes, limit) in [(vec![1; 5000], 5000), (vec![300, 1, 5000, 20_000, 7], 40_000), (vec![0, 3, 0], 3)] {
        let (mut kept, mut all, mut frames) = (Kept::default(), Vec::new(), 0_u8);
        for size in sizes {
            frames = frames.wrapping_add(1);
            let data = vec![frames; size];
            kept.push(&data, limit - all.len());
            all.extend_from_slice(&data);
            let reserved = kept.full.iter().map(Bytes::len).sum::<usize>() + kept.last.capacity();
            assert!(reserved <= limit, "{reserved} bytes");
        }
        assert!(kept.full.len() <= 20, "{} blocks", kept.full.len());
        assert_eq!(kept.blocks().concat(), all);
        assert_eq!(kept.blocks().concat(), all, "once more");
    }
}
