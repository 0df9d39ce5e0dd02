//! Which of a process's connections to the database are still used.
//!
//! A pool notices a connection that was closed, but neither one to a server that has become
//! read-only, nor one whose other end vanished without a word. Those are retired here: a connection
//! that was made before an anomaly is not used after it.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _};
use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, RuntimeErr};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::connection::{ConnectError, Purpose};
use super::fault::{self, Fault};

/// A connection is tested before it is used again once it was idle for this long.
const TESTED_FOR: Duration = Duration::from_secs(1);
/// How long the answer to a test may take.
const TEST_LIMIT: Duration = Duration::from_secs(3);
/// How long an answer is still waited for when another connection has been silent for too long.
const LAST_CHANCE: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pools are not replaced more often.
const REPLACED_FOR: Duration = Duration::from_secs(5);
/// The pause before a server that is starting, or has no room yet, is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(200);

/// No connection that was made before this is used.
type Retired = watch::Sender<Option<Instant>>;

/// A pool that can be replaced by a new one.
#[derive(Debug, Clone)]
pub struct Pool(watch::Sender<DatabaseConnection>);

impl Pool {
    /// The pool of now; to be asked for again each time.
    #[must_use]
    pub fn get(&self) -> DatabaseConnection {
        self.0.borrow().clone()
    }
}

/// The connections of an owner: two pools, one for batches and one for renewals.
#[derive(Debug, Clone)]
pub struct Connections {
    retired: Retired,
    /// The pools, how each is made, and when they were last replaced.
    pools: Arc<Mutex<Pools>>,
    /// Changes when a connection was silent for no good reason.
    suspected: watch::Sender<()>,
    /// Where they lead; none on SQLite.
    options: Option<Box<PgConnectOptions>>,
}

#[derive(Debug, Default)]
struct Pools {
    made: Vec<(Pool, ConnectOptions)>,
    replaced: Option<Instant>,
}

impl Connections {
    /// Connections that lead there.
    #[must_use]
    pub(super) fn to(options: Option<PgConnectOptions>) -> Self {
        let options = options.map(Box::new);
        Self {
            retired: watch::Sender::new(None),
            pools: Arc::default(),
            suspected: watch::Sender::new(()),
            options,
        }
    }

    /// Retires what there is now, if the failure is of the kind that stays with a connection.
    pub fn learn(&self, error: &DbErr) {
        if Fault::of(error) == Fault::Connection {
            self.retire();
        }
    }

    /// A connection was silent where any server would have answered: retires what there is now, and
    /// ends every [`Self::answer`] that does not come soon. SQLite always answers, and its one
    /// connection may only be busy.
    pub async fn suspect(&self) {
        if self.options.is_some() {
            self.retire();
            self.suspected.send_replace(());
            self.replace().await;
        }
    }

    /// Replaces the pools. A connection whose other end is gone can stay on its way back to its pool,
    /// and keep its place there, for as long as TCP waits.
    async fn replace(&self) {
        let made = {
            let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            if pools.replaced.is_some_and(|at| at.elapsed() < REPLACED_FOR) {
                return;
            }
            pools.replaced = Some(Instant::now());
            pools.made.clone()
        };
        for (pool, options) in made {
            // It connects when it is used.
            if let Ok(new) = Database::connect(options).await {
                let old = pool.0.send_replace(new);
                // What is in use is closed when it comes back.
                tokio::spawn(async move { old.close().await });
            }
        }
    }

    /// Makes this pool one of those that are replaced.
    pub(super) fn own(&self, pool: DatabaseConnection, options: ConnectOptions) -> Pool {
        let pool = Pool(watch::Sender::new(pool));
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.made.push((pool.clone(), options));
        pool
    }

    /// Waits for something that uses a connection. If that takes too long, the connection is
    /// retired before it goes back to its pool: there, a test of a connection whose other end is
    /// gone would take its place for as long as TCP waits.
    pub async fn answer<T, E: From<DbErr>>(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut suspected = self.suspected.subscribe();
        let is_silent = async {
            let _ = suspected.changed().await;
            tokio::time::sleep(LAST_CHANCE).await;
        };
        let mut asking = pin!(asking);
        tokio::select! {
            biased;
            answer = &mut asking => return answer,
            () = tokio::time::sleep(limit) => {}
            () = is_silent => {}
        }
        if self.options.is_some() {
            self.retire();
        }
        Err(unreachable("the database did not answer in time".into()).into())
    }

    /// The cause, where the failure is only that no connection was to be had. If the server is well,
    /// the pools are replaced.
    pub async fn explain(&self, error: DbErr) -> DbErr {
        let (DbErr::ConnectionAcquire(_), Some(options)) = (&error, &self.options) else {
            return error;
        };
        match connect_once(options).await {
            Ok(()) => {
                self.replace().await;
                error
            }
            Err(cause) => unreachable(cause.to_string()),
        }
    }

    fn retire(&self) {
        self.retired.send_replace(Some(Instant::now()));
    }

    /// Tests the connections of a pool before they are used and before they go back.
    pub(super) fn watch(&self, pool: &mut ConnectOptions, purpose: Purpose) {
        let retired = self.retired.clone();
        // The pool's own test has no time limit.
        pool.test_before_acquire(false);
        pool.map_sqlx_postgres_before_acquire(move |connection, known| {
            test(connection, is_retired(&retired, known.age), known.idle_for >= TESTED_FOR)
        });
        // An owner has few connections and returns them all the time. It retires those that do not
        // answer; elsewhere whoever waited for one may just be gone.
        let tests_returned = !matches!(purpose, Purpose::Own(_) | Purpose::Renew(_));
        let retired = self.retired.clone();
        pool.map_sqlx_postgres_pool_opts(move |pool| {
            let retired = retired.clone();
            pool.after_release(move |connection, known: PoolConnectionMetadata| {
                test(connection, is_retired(&retired, known.age), tests_returned)
            })
        });
    }

    /// The same for SQLite, where a connection always answers, but may have met a broken disk or a
    /// file that is another one now.
    pub(super) fn watch_sqlite(&self, pool: &mut ConnectOptions) {
        let retired = self.retired.clone();
        pool.map_sqlx_sqlite_before_acquire(move |_, known| {
            let is_retired = is_retired(&retired, known.age);
            async move { Ok(!is_retired) }.boxed()
        });
    }
}

fn is_retired(retired: &Retired, age: Duration) -> bool {
    retired.borrow().is_some_and(|at| at.elapsed() < age)
}

/// Whether a connection is to be used further.
fn test(
    connection: &mut PgConnection,
    is_retired: bool,
    asks: bool,
) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    async move {
        if is_retired || !asks {
            return Ok(!is_retired);
        }
        let answered = timeout(TEST_LIMIT, connection.ping()).await;
        answered.map_or(Err(sqlx::Error::PoolTimedOut), |answer| answer.map(|()| true))
    }
    .boxed()
}

/// Connects once, because a pool tries for long and then does not say what was wrong. Waits only for
/// a server that answers that it is starting, or that all its connections are taken.
pub(super) async fn connect_once(options: &PgConnectOptions) -> Result<(), ConnectError> {
    let error = |cause: String| ConnectError {
        address: Some(format!("{}:{}", options.get_host(), options.get_port())),
        cause,
    };
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        let connected = timeout(CONNECT_LIMIT, options.connect()).await;
        match connected {
            Ok(Ok(connection)) => {
                // A goodbye that is not answered harms nobody.
                let _ = timeout(TEST_LIMIT, connection.close()).await;
                return Ok(());
            }
            Ok(Err(sqlx::Error::Database(refusal)))
                if refusal.is_transient_in_connect_phase() && Instant::now() < deadline =>
            {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
            Ok(Err(sqlx::Error::Database(refusal))) => {
                let code = refusal.code().unwrap_or_default();
                let is_poolers = fault::is_poolers(&code, refusal.message());
                let hint = if is_poolers { fault::POOLER } else { "" };
                return Err(error(format!("{hint}{}", refusal.message())));
            }
            Ok(Err(cause)) => return Err(error(innermost(&cause))),
            Err(_) => return Err(error(format!("no answer within {CONNECT_LIMIT:?}"))),
        }
    }
}

fn unreachable(why: String) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(why))
}

/// What is behind an error: each layer repeats the next one's text.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
