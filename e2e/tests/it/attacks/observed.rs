//! What a process holds, as the kernel tells.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e::usage::memory_kib;
use tokio::task::JoinHandle;

const INTERVAL: Duration = Duration::from_millis(50);

/// What a process holds at a time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// Its memory (`VmRSS`).
    pub(super) memory_kib: u64,
    /// Its open sockets.
    pub(super) sockets: usize,
}

impl Held {
    pub(super) fn by(pid: u32) -> Self {
        let sockets = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            // Some are closed while the directory is read.
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count();
        Self { memory_kib: memory_kib(pid, "VmRSS").unwrap(), sockets }
    }
}

/// Looks at a process until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    most: Arc<Mutex<Held>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(super) fn begin(pid: u32) -> Self {
        let most = Arc::new(Mutex::new(Held::by(pid)));
        let task = tokio::spawn({
            let most = Arc::clone(&most);
            async move {
                loop {
                    tokio::time::sleep(INTERVAL).await;
                    let held = Held::by(pid);
                    let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
                    most.memory_kib = most.memory_kib.max(held.memory_kib);
                    most.sockets = most.sockets.max(held.sockets);
                }
            }
        });
        Self { most, task }
    }

    /// The most of each so far.
    pub(super) fn most(&self) -> Held {
        *self.most.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
