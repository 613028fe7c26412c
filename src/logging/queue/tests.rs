use std::sync::mpsc;

use super::*;

/// A writer like a pipe whose reader stalls: each write says that it has begun, and ends when the test lets it.
struct Stalling {
    begun: mpsc::Sender<()>,
    /// A write waits for a message, or for the other end to be dropped.
    leave: mpsc::Receiver<()>,
    written: mpsc::Sender<String>,
}

struct PipeReader {
    begun: mpsc::Receiver<()>,
    leave: mpsc::Sender<()>,
    written: mpsc::Receiver<String>,
}

fn stalling() -> (Stalling, PipeReader) {
    let (begun, begun_at) = mpsc::channel();
    let (leave_at, leave) = mpsc::channel();
    let (written, written_at) = mpsc::channel();
    (Stalling { begun, leave, written }, PipeReader { begun: begun_at, leave: leave_at, written: written_at })
}

impl Write for Stalling {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let _ = self.begun.send(());
        let _ = self.leave.recv();
        let _ = self.written.send(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.written.send("flush".to_owned());
        Ok(())
    }
}

const SMALL: Capacity = Capacity { bytes: 100, entries: 4 };
const LONG: Duration = Duration::from_secs(60);

fn report(lines: u64) -> Vec<u8> {
    format!("lost {lines}").into_bytes()
}

#[test]
fn a_stalled_writer_costs_lines_and_no_time_and_reports_them_when_it_recovers() {
    let (writer, reader) = stalling();
    let queue = Queue::new(SMALL);
    queue.start(writer, report).unwrap();
    queue.send(b"first", 1);
    reader.begun.recv().unwrap();
    for text in ["a", "b", "c", "d", "e", "f"] {
        // This would hang if it waited for the writer.
        queue.send(text.as_bytes(), 1);
    }
    queue.send(b"g and h", 2);
    assert_eq!(queue.dropped(), 4);
    drop(reader.leave);
    assert!(queue.close(LONG));
    drop(queue);
    // Half of the queue is free before `c` is written.
    assert_eq!(reader.written.iter().collect::<Vec<_>>(), ["first", "a", "b", "lost 4", "c", "d", "flush"]);
}

#[test]
fn the_entry_that_is_being_written_counts_against_the_bound() {
    let (writer, reader) = stalling();
    let queue = Queue::new(SMALL);
    queue.start(writer, report).unwrap();
    queue.send(&[b'x'; 101], 3);
    assert_eq!(queue.dropped(), 3);
    reader.begun.recv().unwrap();
    reader.leave.send(()).unwrap();
    assert_eq!(reader.written.recv().unwrap(), "lost 3");

    queue.send(&[b'x'; 60], 1);
    reader.begun.recv().unwrap();
    queue.send(&[b'y'; 41], 1);
    assert_eq!(queue.dropped(), 4);
    queue.send(&[b'z'; 40], 1);
    assert_eq!(queue.dropped(), 4);
    drop(reader.leave);
    assert!(queue.close(LONG));
}

#[test]
fn a_stalled_writer_does_not_hang_the_exit() {
    let (writer, reader) = stalling();
    let queue = Queue::new(SMALL);
    queue.start(writer, report).unwrap();
    queue.send(b"first", 1);
    reader.begun.recv().unwrap();
    assert!(!queue.close(Duration::from_millis(1)));
    queue.send(b"late", 1);
    assert_eq!(queue.dropped(), 1);
}

#[test]
fn every_line_is_written_and_flushed_at_the_close() {
    let (writer, reader) = stalling();
    drop(reader.leave);
    let queue = Queue::new(Capacity { bytes: 1000, entries: 100 });
    queue.start(writer, report).unwrap();
    let sent: Vec<String> = (0..50).map(|line| format!("{line}")).collect();
    for line in &sent {
        queue.send(line.as_bytes(), 1);
    }
    assert!(queue.close(LONG));
    drop(queue);
    let mut written: Vec<_> = reader.written.iter().collect();
    assert_eq!(written.last().unwrap(), "flush");
    written.retain(|text| text != "flush");
    assert_eq!(written, sent);
}

#[test]
fn lines_of_a_failed_write_are_counted_and_later_lines_are_written() {
    let (written, reader) = mpsc::channel();
    let queue = Queue::new(SMALL);
    queue.start(Full { failures: 1, written }, report).unwrap();
    queue.send(b"two lines", 2);
    assert_eq!(reader.recv().unwrap(), "lost 2");
    assert_eq!(queue.dropped(), 2);
    queue.send(b"next", 1);
    assert_eq!(reader.recv().unwrap(), "next");
    assert!(queue.close(LONG));
}

/// A writer like a file on a disk that is full for so many writes.
struct Full {
    failures: u32,
    written: mpsc::Sender<String>,
}

impl Write for Full {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let _ = self.written.send(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file on a disk that takes so many bytes more, in each attempt.
struct NearlyFull {
    room: mpsc::Receiver<usize>,
    left: usize,
    written: mpsc::Sender<u8>,
}

impl Write for NearlyFull {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.left = self.room.try_recv().unwrap_or(usize::MAX);
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = text.len().min(self.left);
        self.left -= taken;
        text[..taken].iter().for_each(|byte| self.written.send(*byte).unwrap());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_that_a_full_disk_took_in_part_is_not_joined_to_the_next_one() {
    for (room, expected) in [
        (vec![], "one\ntw\nlost 1\nthree\nfour\n"),
        // Of the next two attempts nothing is taken.
        (vec![0, 0], "one\ntw\nfour\nlost 2\n"),
        // Of the next one the line's end is taken.
        (vec![1], "one\ntw\nthree\nlost 1\nfour\n"),
    ] {
        let (written, bytes) = mpsc::channel();
        let (more, more_room) = mpsc::channel();
        for room in &room {
            more.send(*room).unwrap();
        }
        let queue = Queue::new(SMALL);
        for line in ["one\n", "two\n", "three\n", "four\n"] {
            queue.send(line.as_bytes(), 1);
        }
        queue.start(NearlyFull { room: more_room, left: 6, written }, |lines| format!("lost {lines}\n").into_bytes()).unwrap();
        assert!(queue.close(LONG));
        assert_eq!(String::from_utf8(bytes.iter().collect()).unwrap(), expected, "{room:?}");
    }
}

#[test]
fn lines_that_a_full_disk_did_not_take_are_reported_once_it_takes_some() {
    let (written, lines) = mpsc::channel();
    let queue = Queue::new(SMALL);
    for text in ["a", "b", "c"] {
        queue.send(text.as_bytes(), 1);
    }
    queue.start(Full { failures: 3, written }, report).unwrap();
    assert!(queue.close(LONG));
    assert_eq!(lines.iter().collect::<Vec<_>>(), ["c", "lost 2"]);
}
