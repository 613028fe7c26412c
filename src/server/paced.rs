//! A byte stream that gives way after some bytes.
//!
//! h2 reads all that has come before it hands out the first request of it, and each head that waits takes many times its bytes on
//! the wire: a field of one byte may take a hundred in memory. Guarantees: between two polls of the connection's task no more
//! than about [`AT_ONCE`] bytes are read, so the requests of one round are served before those of the next are read.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are read at once; one read may exceed it.
const AT_ONCE: usize = 16 * 1024;

/// The stream.
pub(super) struct Paced<S> {
    stream: S,
    /// Bytes that were read since it gave way.
    read: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if std::mem::take(&mut this.read) >= AT_ONCE {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.read += buffer.filled().len() - before;
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
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn after_some_bytes_it_gives_way_once() {
        let bytes = vec![1; 10 * AT_ONCE];
        let mut stream = Paced::new(bytes.as_slice());
        let (mut read, mut gave_way) = (0, 0);
        let mut buffer = [0; 4096];
        while read < bytes.len() {
            std::future::poll_fn(|cx| {
                let mut buffer = ReadBuf::new(&mut buffer);
                let polled = Pin::new(&mut stream).poll_read(cx, &mut buffer);
                read += buffer.filled().len();
                gave_way += usize::from(polled.is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(gave_way, 9);
        assert_eq!(stream.read_u8().await.ok(), None);
    }
}
