//! An output stream that waits for its reader.
//!
//! A descriptor that is set not to block is set so for every process that has it: Node sets it for standard error, and so for the
//! sidecar around it. A full pipe is then an error of the write, which is no failure.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// Writes to `S`, and waits while that takes nothing, whether or not its descriptor blocks.
pub struct BlockingOutput<S>(pub S);

impl<S: Write + AsFd> BlockingOutput<S> {
    fn retry_when_writable<T>(&mut self, mut attempt: impl FnMut(&mut S) -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<S: Write + AsFd> Write for BlockingOutput<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry_when_writable(|stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.retry_when_writable(S::flush)
    }
}
