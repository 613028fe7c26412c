//! The pool of idle HTTP/1.1 connections to one origin.
//!
//! Guarantees: a connection that was open when the pool was cleared never returns; [`Http1Pool::take`] never waits.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use tokio::{sync::Notify, time::Instant};

use super::{
    super::{
        error::Cause,
        keep_alive::KeepAlive,
        options::{HeadLimits, Reuse},
    },
    connection::Http1Connection,
};
use crate::{clock, connect::Connection, metrics::ConnectionGauge};

/// Idle connections to one origin. The one that was used last is taken first, so that the rest can grow old and be closed.
pub(in crate::upstream) struct Http1Pool<B> {
    connections: Mutex<IdleConnections<B>>,
    /// Notified when a connection has become idle.
    freed: Notify,
    keep: Duration,
    keep_alive: KeepAlive,
}

struct IdleConnections<B> {
    /// The one that was used last comes last.
    idle: Vec<IdleConnection<B>>,
    /// How often the pool was cleared.
    generation: u64,
    /// No connection is kept any more.
    retired: bool,
}

struct IdleConnection<B> {
    since: Instant,
    connection: Box<Http1Connection<B>>,
}

impl<B> Http1Pool<B> {
    /// `keep`: for how long a connection may be idle. `keep_alive`: how long the upstream keeps it.
    pub(in crate::upstream) fn new(keep: Duration, keep_alive: KeepAlive) -> Self {
        let connections = IdleConnections { idle: Vec::new(), generation: 0, retired: false };
        Self { connections: Mutex::new(connections), freed: Notify::new(), keep, keep_alive }
    }

    /// Makes a connection ready for requests, and for this pool afterwards. `retires`: when it is too old for another request.
    pub(in crate::upstream) async fn open(
        &self,
        connection: Connection,
        limits: HeadLimits,
        retires: Instant,
        gauge: ConnectionGauge,
    ) -> Result<Box<Http1Connection<B>>, Cause>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let generation = self.lock().generation;
        Http1Connection::open(connection, limits, retires, generation, self.keep_alive.clone(), gauge).await
    }

    /// The connection that was used last, if `reuse` allows it. One that is not ready now is closed: its upstream may never
    /// read the rest of the last request.
    pub(in crate::upstream) fn take(&self, reuse: Reuse) -> Option<Box<Http1Connection<B>>> {
        let limit = match reuse {
            Reuse::Any => self.keep,
            Reuse::Safe => self.safe_idle(),
            Reuse::OpenedAfter(_) => return None,
        };
        loop {
            let connection = self.pop(limit)?;
            if connection.is_usable() {
                connection.gauge.set_idle(false);
                return Some(connection);
            }
            if connection.is_closed() {
                self.keep_alive.found_closed(connection.idled);
            }
        }
    }

    /// Waits for a connection that `reuse` allows and that nobody else takes before.
    pub(in crate::upstream) async fn wait(&self, reuse: Reuse) -> Box<Http1Connection<B>> {
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.take(reuse) {
                return connection;
            }
            freed.await;
        }
    }

    /// For how long a connection may have been idle when a request takes it that must not arrive twice.
    fn safe_idle(&self) -> Duration {
        self.keep_alive.safe_idle().min(self.keep)
    }

    /// Whether a connection is idle that any request may take, now and for `ahead`, and that is not retired within `lead`.
    pub(in crate::upstream) fn is_ready(&self, ahead: Duration, lead: Duration) -> bool {
        let (now, limit) = (clock::instant(), self.keep_alive.safe_idle_after(ahead).min(self.keep));
        let connections = self.lock();
        let will_serve = |idle: &IdleConnection<B>| {
            now.duration_since(idle.since) + ahead <= limit && now + lead < idle.connection.retires && idle.connection.is_usable()
        };
        connections.retired || connections.idle.iter().any(will_serve)
    }

    fn pop(&self, limit: Duration) -> Option<Box<Http1Connection<B>>> {
        let idle = &mut self.lock().idle;
        let since = idle.last()?.since;
        let now = clock::instant();
        let mut idled = now.duration_since(since);
        // Sorted by age: when the newest has been idle for too long, all have.
        while idled <= limit {
            let mut newest = idle.pop()?;
            if now < newest.connection.retires {
                newest.connection.idled = idled;
                return Some(newest.connection);
            }
            idled = now.duration_since(idle.last()?.since);
        }
        None
    }

    /// Takes a connection back whose exchange is complete or never began. A connection that has grown old, or that was in use
    /// when the pool was cleared or retired, is closed instead.
    pub(in crate::upstream) fn put(&self, connection: Box<Http1Connection<B>>) {
        let since = clock::instant();
        let mut connections = self.lock();
        if !connections.retired && connections.generation == connection.generation && since < connection.retires {
            connection.gauge.set_idle(true);
            connections.idle.push(IdleConnection { since, connection });
            self.freed.notify_one();
        }
    }

    /// Closes what was idle for too long, what has grown old and what the upstream closed; learns how long that keeps
    /// connections.
    pub(in crate::upstream) fn sweep(&self) {
        let (keep, now) = (self.keep, clock::instant());
        let (mut closed, mut open) = (None, None);
        self.lock().idle.retain(|idle| {
            let time = now.duration_since(idle.since);
            if idle.connection.is_closed() {
                closed = Some(closed.map_or(time, |shortest: Duration| shortest.min(time)));
                return false;
            }
            open = open.max(Some(time));
            time <= keep && now < idle.connection.retires
        });
        if let Some(time) = closed {
            self.keep_alive.found_closed(time);
        }
        if let Some(time) = open {
            self.keep_alive.survived(time);
        }
    }

    /// Closes what has been idle for `silence` or longer.
    pub(in crate::upstream) fn retire_older_than(&self, silence: Duration) {
        self.lock().idle.retain(|idle| idle.since.elapsed() < silence);
    }

    /// Closes every idle connection now, and those in use once their exchanges have ended.
    pub(in crate::upstream) fn clear(&self) {
        let mut connections = self.lock();
        connections.generation += 1;
        connections.idle.clear();
    }

    /// Closes every idle connection now and each other one once its exchange has ended, also those that are opened later.
    pub(in crate::upstream) fn retire(&self) {
        let mut connections = self.lock();
        connections.retired = true;
        connections.idle.clear();
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections<B>> {
        // A list of connections can't be left half changed.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, net::Ipv4Addr, num::NonZeroUsize, sync::Arc};

    use http_body_util::Full;
    use tokio::{
        net::{TcpListener, TcpStream},
        time::{advance, pause, resume},
    };

    use super::*;
    use crate::{
        connect::Protocol,
        metrics::Metrics,
        upstream_io::{CountingTcp, UpstreamIo},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const MOMENT: Duration = Duration::from_nanos(1);
    const ALMOST_TEN: Duration = Duration::new(9, 999_999_999);
    const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, lines: 100 };

    type Pool = Http1Pool<Full<Bytes>>;

    /// A pool with one idle connection that retires after `life`, in time that stands still; and the upstream's end of it.
    async fn pool(keep: Duration, life: Duration) -> (Pool, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (upstream, _) = listener.accept().await.unwrap();
        pause();
        let written = Arc::default();
        let stream = UpstreamIo::Plain(CountingTcp::new(tcp, Arc::clone(&written)));
        let connection = Connection { stream, written, protocol: Protocol::Http1 };
        let pool = Pool::new(keep, KeepAlive::default());
        let gauge = Metrics::new::<Infallible, Infallible>(NonZeroUsize::MIN).api("emr").meter(0).connected();
        let mut connection = pool.open(connection, LIMITS, clock::instant() + life, gauge).await.unwrap();
        connection.ready().await.unwrap();
        pool.put(connection);
        (pool, upstream)
    }

    fn idle(pool: &Pool) -> usize {
        pool.lock().idle.len()
    }

    #[tokio::test]
    async fn a_connection_is_taken_until_it_was_idle_for_too_long_or_is_too_old() {
        for (keep, life, age, is_taken) in [
            (10 * SECOND, 99 * SECOND, 10 * SECOND, true),
            (10 * SECOND, 99 * SECOND, 10 * SECOND + MOMENT, false),
            (99 * SECOND, 10 * SECOND, ALMOST_TEN, true),
            (99 * SECOND, 10 * SECOND, 10 * SECOND, false),
        ] {
            let (pool, _upstream) = pool(keep, life).await;
            advance(age).await;
            let taken = pool.take(Reuse::Any);
            assert_eq!(taken.as_ref().map(|taken| taken.idled), is_taken.then_some(age), "{keep:?} {life:?}");
            assert!(pool.take(Reuse::Any).is_none(), "there was one");
            resume();
        }
    }

    #[tokio::test]
    async fn a_sweep_closes_what_may_not_be_taken_any_more() {
        for (keep, life, age, stays) in [
            (10 * SECOND, 99 * SECOND, 10 * SECOND, 1),
            (10 * SECOND, 99 * SECOND, 10 * SECOND + MOMENT, 0),
            (99 * SECOND, 10 * SECOND, ALMOST_TEN, 1),
            (99 * SECOND, 10 * SECOND, 10 * SECOND, 0),
        ] {
            let (pool, _upstream) = pool(keep, life).await;
            advance(age).await;
            pool.sweep();
            assert_eq!(idle(&pool), stays, "{keep:?} {life:?} {age:?}");
            resume();
        }
    }

    #[tokio::test]
    async fn a_connection_is_not_put_back_once_it_is_too_old_nor_after_the_pool_was_cleared() {
        for (age, clears, stays) in [(ALMOST_TEN, false, 1), (10 * SECOND, false, 0), (SECOND, true, 0)] {
            let (pool, _upstream) = pool(99 * SECOND, 10 * SECOND).await;
            let taken = pool.take(Reuse::Any).unwrap();
            advance(age).await;
            if clears {
                pool.clear();
            }
            pool.put(taken);
            assert_eq!(idle(&pool), stays, "{age:?}");
            resume();
        }
    }

    #[tokio::test]
    async fn what_was_silent_for_so_long_is_retired() {
        let (pool, _upstream) = pool(99 * SECOND, 99 * SECOND).await;
        advance(10 * SECOND).await;
        pool.retire_older_than(10 * SECOND + MOMENT);
        assert_eq!(idle(&pool), 1);
        pool.retire_older_than(10 * SECOND);
        assert_eq!(idle(&pool), 0);
    }

    #[tokio::test]
    async fn the_pool_is_ready_while_a_connection_will_serve_the_next_request() {
        let (pool, _upstream) = pool(99 * SECOND, 10 * SECOND).await;
        assert!(pool.is_ready(SECOND, ALMOST_TEN));
        assert!(!pool.is_ready(SECOND, 10 * SECOND), "it retires then");
        let safe = pool.keep_alive.safe_idle_after(SECOND);
        advance(safe.saturating_sub(SECOND)).await;
        assert!(pool.is_ready(SECOND, SECOND));
        advance(MOMENT).await;
        assert!(!pool.is_ready(SECOND, SECOND), "a second later the upstream may have closed it");
        drop(pool.take(Reuse::Any));
        assert!(!pool.is_ready(SECOND, SECOND), "it is empty");
        pool.retire();
        assert!(pool.is_ready(SECOND, SECOND), "nothing is opened any more");
    }
}
