//! A body whose small frames take no more memory than their bytes, however many of them wait to be written.
//!
//! A frame is a slice of the buffer that it was read into, so a chunk of one byte keeps 8 KiB or more. Its receiver counts bytes:
//! h2 holds 64 KiB of them, each in an entry of its own if need be. So small frames are copied, and those that wait are counted.
//! When many wait, what comes after them is joined. Guarantees: a frame is passed on at once unless [`WAITING`] small ones wait
//! before it; large frames, and a first small one, are passed on without a copy; bytes, trailers and errors keep their order.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A frame of this size, in bytes, is large: it is a good part of the buffer that it keeps.
const LARGE: usize = 8 * 1024;
/// How many small frames may wait to be written before what follows is joined.
const WAITING: usize = 16;
/// How many bytes are joined at most before the body is read no further; one small frame may exceed it.
const JOINED: usize = 16 * 1024;

/// A body, with its small frames copied and, if need be, joined.
pub(super) struct Coalesced<B: Body<Data = Bytes>> {
    body: B,
    /// No frame has come yet.
    first: bool,
    /// `None`: no small frame has been passed on that waits, or did.
    waiting: Option<Arc<Waiting>>,
    /// Bytes of small frames that wait until fewer than [`WAITING`] frames do.
    joined: Vec<u8>,
    /// What came after `joined`.
    then: Option<Polled<B::Error>>,
}

type Polled<E> = Option<Result<Frame<Bytes>, E>>;

impl<B: Body<Data = Bytes> + Unpin> Coalesced<B> {
    /// Nothing of `body` was read yet.
    pub(super) fn new(body: B) -> Self {
        Self { body, first: true, waiting: None, joined: Vec::new(), then: None }
    }

    /// Whether bytes wait for the receiver, which has not written enough of what it was given before.
    pub(super) fn is_held_back(&self) -> bool {
        !self.joined.is_empty()
    }

    fn has_room(&self) -> bool {
        self.waiting.as_ref().is_none_or(|waiting| waiting.has_room())
    }

    /// A small frame that counts as one that waits.
    fn small_frame(&mut self, bytes: Box<[u8]>) -> Frame<Bytes> {
        self.waiting.get_or_insert_default().frame(bytes)
    }

    /// Takes what was polled of the body. Gives what can be passed on now.
    fn take(&mut self, polled: Polled<B::Error>) -> Option<Polled<B::Error>> {
        let is_first = std::mem::replace(&mut self.first, false);
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
            && data.len() < LARGE
        {
            if !self.joined.is_empty() || !self.has_room() {
                self.joined.extend_from_slice(data);
                return None;
            }
            if !is_first && !data.is_empty() {
                return Some(Some(Ok(self.small_frame(data.as_ref().into()))));
            }
        }
        if self.joined.is_empty() {
            return Some(polled);
        }
        self.then = Some(polled);
        None
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Coalesced<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled<B::Error>> {
        let this = &mut *self;
        loop {
            if !this.joined.is_empty() {
                if this.has_room() {
                    let joined = std::mem::take(&mut this.joined);
                    return Poll::Ready(Some(Ok(this.small_frame(joined.into()))));
                }
            } else if let Some(then) = this.then.take() {
                return Poll::Ready(then);
            }
            let reads = this.then.is_none() && this.joined.len() < JOINED;
            if reads && let Poll::Ready(polled) = Pin::new(&mut this.body).poll_frame(cx) {
                match this.take(polled) {
                    Some(passed) => return Poll::Ready(passed),
                    None => continue,
                }
            }
            if this.joined.is_empty() || this.waiting.as_ref().is_some_and(|waiting| waiting.poll_room(cx).is_pending()) {
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.joined.is_empty() && self.then.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let then = self.then.as_ref().and_then(|then| then.as_ref()?.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        let ahead = (self.joined.len() + then) as u64;
        self.body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(ahead + rest))
    }
}

/// The small frames of one body that its receiver has not written yet.
#[derive(Default)]
struct Waiting(Mutex<WaitingFrames>);

#[derive(Default)]
struct WaitingFrames {
    count: usize,
    /// Wakes the body's reader when there is room again.
    reader: Option<Waker>,
}

impl Waiting {
    fn has_room(&self) -> bool {
        self.lock().count < WAITING
    }

    fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut frames = self.lock();
        if frames.count < WAITING {
            return Poll::Ready(());
        }
        frames.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A frame that counts until its receiver drops it.
    fn frame(self: &Arc<Self>, bytes: Box<[u8]>) -> Frame<Bytes> {
        self.lock().count += 1;
        Frame::data(Bytes::from_owner(WaitingFrame { bytes, waiting: Arc::clone(self) }))
    }

    fn lock(&self) -> MutexGuard<'_, WaitingFrames> {
        // A count and a waker can't be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct WaitingFrame {
    bytes: Box<[u8]>,
    waiting: Arc<Waiting>,
}

impl AsRef<[u8]> for WaitingFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for WaitingFrame {
    fn drop(&mut self) {
        let mut frames = self.waiting.lock();
        frames.count -= 1;
        let reader = frames.reader.take();
        drop(frames);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque, rc::Rc};

    use http::HeaderMap;

    use super::*;

    /// A body that a test fills as it goes on. Nothing in it: nothing has come yet, or it has ended, if the test has dropped its own.
    #[derive(Clone, Default)]
    struct Filled(Rc<RefCell<VecDeque<Polled<&'static str>>>>);

    impl Filled {
        fn data(&self, bytes: &'static [u8]) {
            self.0.borrow_mut().push_back(Some(Ok(Frame::data(Bytes::from_static(bytes)))));
        }
    }

    impl Body for Filled {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Polled<&'static str>> {
            self.0.borrow_mut().pop_front().map_or(Poll::Pending, Poll::Ready)
        }

        fn is_end_stream(&self) -> bool {
            Rc::strong_count(&self.0) == 1 && self.0.borrow().is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let bytes = |polled: &Polled<&'static str>| polled.as_ref()?.as_ref().ok()?.data_ref().map(Bytes::len);
            SizeHint::with_exact(self.0.borrow().iter().filter_map(bytes).sum::<usize>() as u64)
        }
    }

    fn next(body: &mut Coalesced<Filled>) -> Poll<Polled<&'static str>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn data(body: &mut Coalesced<Filled>) -> Bytes {
        let Poll::Ready(Some(Ok(frame))) = next(body) else { panic!("no frame") };
        frame.into_data().unwrap_or_else(|_| panic!("trailers"))
    }

    /// A body whose receiver holds as many small frames as may wait.
    fn held_back() -> (Filled, Coalesced<Filled>, Vec<Bytes>) {
        let filled = Filled::default();
        let mut body = Coalesced::new(filled.clone());
        let given = (0..=WAITING).map(|_| {
            filled.data(b"x");
            data(&mut body)
        });
        let given = given.collect();
        (filled, body, given)
    }

    #[test]
    fn a_frame_is_passed_on_at_once_while_few_wait() {
        let (filled, mut body, mut given) = held_back();
        assert_eq!(given.iter().map(Bytes::len).sum::<usize>(), WAITING + 1);
        assert!(next(&mut body).is_pending() && !body.is_held_back());
        given.pop();
        filled.data(b"at once");
        assert_eq!(data(&mut body), "at once");
    }

    #[test]
    fn the_first_frame_and_large_ones_are_not_copied() {
        const SMALL: &[u8] = b"first";
        const BIG: &[u8] = &[7; LARGE];
        let filled = Filled::default();
        let mut body = Coalesced::new(filled.clone());
        for bytes in [SMALL, BIG, BIG] {
            filled.data(bytes);
            assert_eq!(data(&mut body).as_ptr(), bytes.as_ptr());
        }
        filled.data(SMALL);
        assert_ne!(data(&mut body).as_ptr(), SMALL.as_ptr());
    }

    #[test]
    fn what_comes_while_many_wait_is_joined_and_comes_in_order() {
        let (filled, mut body, mut given) = held_back();
        for bytes in [b"a".as_slice(), b"", b"bc", &[7; LARGE]] {
            filled.data(bytes);
        }
        filled.0.borrow_mut().push_back(Some(Ok(Frame::trailers(HeaderMap::new()))));
        assert!(next(&mut body).is_pending() && body.is_held_back() && !body.is_end_stream());
        given.pop();
        assert_eq!(data(&mut body), "abc");
        assert_eq!(data(&mut body).len(), LARGE);
        assert!(matches!(next(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
        assert!(!body.is_held_back());
    }

    #[test]
    fn a_body_has_not_ended_while_something_waits_that_was_read_of_it() {
        const LAST: &[u8] = &[7; LARGE];
        for last in [None, Some(LAST)] {
            let (filled, mut body, mut given) = held_back();
            filled.data(b"abc");
            if let Some(last) = last {
                filled.data(last);
            }
            drop(filled);
            assert!(next(&mut body).is_pending());
            let left = |body: &Coalesced<Filled>| (body.is_end_stream(), body.size_hint().exact());
            let after = last.map_or(0, <[u8]>::len) as u64;
            assert_eq!(left(&body), (false, Some(3 + after)));
            given.pop();
            assert_eq!(data(&mut body), "abc");
            assert_eq!(left(&body), (last.is_none(), Some(after)));
            if last.is_some() {
                assert_eq!(data(&mut body).len(), LARGE);
                assert_eq!(left(&body), (true, Some(0)));
            }
        }
    }

    #[test]
    fn an_error_comes_after_what_was_joined_before_it() {
        let (filled, mut body, mut given) = held_back();
        filled.data(b"last words");
        filled.0.borrow_mut().push_back(Some(Err("broken")));
        assert!(next(&mut body).is_pending());
        given.clear();
        assert_eq!(data(&mut body), "last words");
        assert!(matches!(next(&mut body), Poll::Ready(Some(Err("broken")))));
    }

    #[test]
    fn a_body_is_read_no_further_once_enough_is_joined_and_its_reader_is_woken() {
        let (filled, mut body, mut given) = held_back();
        (0..JOINED + 5).for_each(|_| filled.data(b"y"));
        let woken = Arc::new(WasWoken::default());
        assert!(Pin::new(&mut body).poll_frame(&mut Context::from_waker(&woken.clone().into())).is_pending());
        assert_eq!(filled.0.borrow().len(), 5);
        assert!(!*woken.0.lock().unwrap());
        given.pop();
        assert!(*woken.0.lock().unwrap());
        assert_eq!(data(&mut body).len(), JOINED);
    }

    /// Its receiver may drop a frame on another thread, between two looks of the reader.
    #[test]
    fn a_reader_does_not_wait_for_room_that_is_there_already() {
        let (waiting, cx) = (Arc::<Waiting>::default(), Context::from_waker(Waker::noop()));
        let mut frames: Vec<_> = (0..WAITING).map(|_| waiting.frame([7].into())).collect();
        assert!(waiting.poll_room(&cx).is_pending());
        frames.pop();
        assert!(waiting.poll_room(&cx).is_ready());
    }

    #[derive(Default)]
    struct WasWoken(Mutex<bool>);

    impl std::task::Wake for WasWoken {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() = true;
        }
    }
}
