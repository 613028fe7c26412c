//! A byte stream of which only so much is read in one poll of its connection.
//!
//! h2 reads all that has come before it hands out the first request of it, and each head that waits takes many times its bytes on
//! the wire: a field of one byte may take a hundred in memory. Guarantees: until [`Pace::renew`], which the connection's task calls
//! when it is polled, about [`AT_ONCE`] bytes are read; so the requests of one poll are handed out before more are read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are read at once; one read may exceed it.
const AT_ONCE: usize = 16 * 1024;

/// How many bytes were read in the present poll. Only the connection's task uses it.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<AtomicUsize>);

impl Pace {
    /// The connection is polled anew.
    pub(super) fn renew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The stream.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.pace.0.load(Ordering::Relaxed) >= AT_ONCE {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.pace.0.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn until_the_next_poll_only_so_much_is_read() {
        let (bytes, pace) = (vec![1; 10 * AT_ONCE], Pace::default());
        let mut stream = Paced::new(bytes.as_slice(), pace.clone());
        let mut read = || {
            let mut bytes = [0; 4096];
            let mut buffer = ReadBuf::new(&mut bytes);
            let polled = Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer);
            polled.is_ready().then(|| buffer.filled().len())
        };
        for _ in 0..10 {
            let at_once: usize = std::iter::from_fn(&mut read).sum();
            assert_eq!((at_once, read()), (AT_ONCE, None));
            pace.renew();
        }
        assert_eq!(read(), Some(0), "the end");
    }
}
