//! Flushes beside the work that writes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::{OutputError, io_error};

/// Files to flush, and what then is complete.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) files: Vec<Arc<File>>,
    pub(super) records: Vec<String>,
}

/// Flushes data beside the work that writes it, and journals what the flushed
/// data completes.
#[derive(Debug)]
pub(super) struct Flusher {
    target: PathBuf,
    /// Holds no request: a thread that is behind is not asked again.
    requests: Option<SyncSender<Batch>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flusher {
    /// `lock` is flushed once: its text must outlast a power cut, as the journal does.
    pub(super) fn start(
        target: &Path,
        mut journal: File,
        mut lock: Option<File>,
    ) -> Result<Self, OutputError> {
        let (requests, received) = sync_channel::<Batch>(0);
        let flush = move || {
            for Batch { files, records } in received {
                lock.take().map_or(Ok(()), |lock| lock.sync_all())?;
                files.iter().try_for_each(|file| file.sync_data())?;
                let text: String =
                    records.iter().flat_map(|record| [record.as_str(), "\n"]).collect();
                journal.write_all(text.as_bytes())?;
            }
            Ok(())
        };
        let thread = thread::Builder::new()
            .spawn(flush)
            .map_err(io_error(target, "start a thread that flushes"))?;
        Ok(Self { target: target.to_owned(), requests: Some(requests), thread: Some(thread) })
    }

    /// Begins a flush after which the records hold; gives the batch back if the
    /// thread is busy. A thread that failed is found out by `finish`.
    pub(super) fn begin(&self, batch: Batch) -> Result<(), Batch> {
        match &self.requests {
            Some(requests) => requests.try_send(batch).map_err(|error| match error {
                TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch,
            }),
            None => Err(batch),
        }
    }

    /// Begins a flush as soon as the one under way has ended. A thread that failed is found
    /// out by `finish`.
    pub(super) fn begin_next(&self, batch: Batch) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(batch);
        }
    }

    /// Flushes a last time if there are records, and waits for the thread.
    pub(super) fn finish(&mut self, batch: Batch) -> Result<(), OutputError> {
        let requests = self.requests.take();
        if let (Some(requests), false) = (&requests, batch.records.is_empty()) {
            // Fails only if the thread has failed, which is reported below.
            let _ = requests.send(batch);
        }
        drop(requests);
        let outcome = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        let outcome =
            outcome.unwrap_or_else(|_| Err(io::Error::other("the flushing thread failed")));
        outcome.map_err(io_error(&self.target, "flush"))
    }
}
