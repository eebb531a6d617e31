//! Synced appends beside what the file system can do, in turns within one run.
//!
//! `cargo bench --bench log [-- DIRECTORY]`: the directory decides the file system (default: the build's own). What takes turns,
//! several rounds: a *probe* (one synced 4 KiB write after another into a zero-filled file), *one* producer of commits of one row,
//! and *64* producers; producers are threads that block, or tasks that wait, as the sessions of a server do. Each figure is the
//! median of the rounds; syncs are counted by the kernel's own `fdatasync` calls through a counting disk, so that both sides are
//! seen to sync alike.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use highwater_log::commit::CommitBody;
use highwater_log::env::{Access, Disk, DiskFile, DiskLock, Env, LockError, SystemDisk};
use highwater_log::position::{RowId, StorageId, TableId};
use highwater_log::sequencer::{
    Applier, Keeper, KeeperError, KeyName, KeyRange, KeyWrite, Precondition, RecentSequences, Sequencer,
    SequencerOptions, WriteSet,
};
use highwater_log::{Change, CommitLog, Lsn, SegmentedLog, SegmentedOptions};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A disk that counts its syncs.
struct CountingDisk {
    syncs: Arc<AtomicU64>,
}

struct CountingFile {
    file: Arc<dyn DiskFile>,
    syncs: Arc<AtomicU64>,
}

impl Disk for CountingDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = SystemDisk.open(path, access)?;
        Ok(Arc::new(CountingFile { file, syncs: Arc::clone(&self.syncs) }))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(directory)
    }
    fn create_dir(&self, directory: &Path) -> io::Result<()> {
        SystemDisk.create_dir(directory)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(directory)
    }
    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, LockError> {
        SystemDisk.lock(path, owner)
    }
    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        SystemDisk.free_bytes(directory)
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }
    fn byte_len(&self) -> io::Result<u64> {
        self.file.byte_len()
    }
}

/// Rows that are nothing but applied: the log and the sequencer are measured, not the fold.
#[derive(Clone, Default)]
struct NoRows(Arc<AtomicU64>);

impl Keeper for NoRows {
    fn applied(&self) -> Lsn {
        Lsn::new(self.0.load(Ordering::Acquire))
    }
    fn version(&self, _: StorageId, _: &[u8], _: Lsn) -> Result<Option<Lsn>, KeeperError> {
        Ok(None)
    }
    fn keys(&self, _: StorageId, _: &KeyRange, _: Lsn, _: usize) -> Result<Vec<Bytes>, KeeperError> {
        Ok(Vec::new())
    }
    fn sequences(&self, _: highwater_log::commit::ProducerId, _: Lsn) -> Result<RecentSequences, KeeperError> {
        Ok(RecentSequences::new())
    }
}

impl Applier for NoRows {
    fn apply(&mut self, commits: &[CommitBody]) -> Result<(), KeeperError> {
        let last = commits.last().map_or(0, |commit| commit.lsn().value());
        self.0.store(last, Ordering::Release);
        Ok(())
    }
}

/// Operations per second and syncs per operation.
#[derive(Clone, Copy)]
struct Rate {
    per_second: f64,
    syncs_each: f64,
}

fn probe(directory: &Path, syncs: &Arc<AtomicU64>) -> Rate {
    let disk = CountingDisk { syncs: Arc::clone(syncs) };
    let path = directory.join("probe");
    let _ = std::fs::remove_file(&path);
    let file = disk.open(&path, Access::CreateNew).unwrap();
    file.write_at(&vec![0; PROBE_FILE_BYTES], 0).unwrap();
    file.sync_data().unwrap();
    let page = vec![7; 4096];
    let mut offset = 0;
    measure(syncs, || {
        file.write_at(&page, offset).unwrap();
        file.sync_data().unwrap();
        offset = (offset + 4096) % PROBE_FILE_BYTES as u64;
        1
    })
}

fn measure(syncs: &AtomicU64, mut step: impl FnMut() -> u64) -> Rate {
    let (start, before) = (Instant::now(), syncs.load(Ordering::Relaxed));
    let mut count = 0;
    while start.elapsed() < TURN {
        count += step();
    }
    rate(count, start, syncs.load(Ordering::Relaxed) - before)
}

fn rate(count: u64, start: Instant, syncs: u64) -> Rate {
    Rate { per_second: count as f64 / start.elapsed().as_secs_f64(), syncs_each: syncs as f64 / count as f64 }
}

/// What producers are.
#[derive(Clone, Copy)]
enum Producers {
    Threads,
    Tasks,
}

fn producers(directory: &Path, syncs: &Arc<AtomicU64>, kind: Producers, count: u64) -> Rate {
    let path = directory.join(format!("log-{count}"));
    let _ = std::fs::remove_dir_all(&path);
    let env = Env { disk: Arc::new(CountingDisk { syncs: Arc::clone(syncs) }), ..Env::system() };
    let log = Arc::new(SegmentedLog::open(&env, &path, SegmentedOptions::default()).unwrap());
    let rows = NoRows::default();
    let sequencer = Sequencer::start(
        Arc::<SegmentedLog>::clone(&log),
        Arc::new(rows.clone()),
        Box::new(rows),
        Arc::clone(&env.clock),
        SequencerOptions::default(),
    )
    .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (start, before) = (Instant::now(), syncs.load(Ordering::Relaxed));
    match kind {
        Producers::Threads => std::thread::scope(|scope| {
            for producer in 0..count {
                let sequencer = sequencer.clone();
                scope.spawn(move || {
                    let mut written = 0_u64;
                    while start.elapsed() < TURN {
                        sequencer.commit_blocking(insert(producer, written)).unwrap();
                        written += 1;
                    }
                });
            }
        }),
        Producers::Tasks => {
            let tasks = (0..count).map(|producer| {
                let sequencer = sequencer.clone();
                runtime.spawn(async move {
                    let mut written = 0_u64;
                    while start.elapsed() < TURN {
                        sequencer.commit(insert(producer, written)).await.unwrap();
                        written += 1;
                    }
                })
            });
            let tasks: Vec<_> = tasks.collect();
            tasks.into_iter().for_each(|task| runtime.block_on(task).unwrap());
        }
    }
    let total = log.appended().value();
    let rate = rate(total, start, syncs.load(Ordering::Relaxed) - before);
    drop(sequencer);
    drop(log);
    std::fs::remove_dir_all(path).unwrap();
    rate
}

/// A row of 100 bytes under a key that must be absent: what an INSERT asks for.
fn insert(producer: u64, count: u64) -> WriteSet {
    let key = Bytes::from([producer.to_be_bytes(), count.to_be_bytes()].concat());
    let space = StorageId::new(17);
    WriteSet {
        preconditions: vec![Precondition::Absent { space, key: key.clone() }],
        keys: vec![KeyWrite { space, key: KeyName::Bytes(key), is_present: true }],
        changes: vec![Change::Insert { table: TableId::new(16), row: RowId::default(), after: vec![7; 100].into() }],
        ..WriteSet::default()
    }
}

fn median(mut rates: Vec<Rate>) -> Rate {
    rates.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    rates[rates.len() / 2]
}

fn main() {
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory =
        argument.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-log"), PathBuf::from);
    std::fs::create_dir_all(&directory).unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let shown = [
        ("1 producer, a thread", Producers::Threads, 1),
        ("1 producer, a task", Producers::Tasks, 1),
        ("64 producers, threads", Producers::Threads, 64),
        ("64 producers, tasks", Producers::Tasks, 64),
    ];
    let (mut probes, mut rates) = (Vec::new(), shown.map(|_| Vec::new()));
    for _ in 0..ROUNDS {
        probes.push(probe(&directory, &syncs));
        for ((_, kind, count), rates) in shown.iter().zip(&mut rates) {
            rates.push(producers(&directory, &syncs, *kind, *count));
        }
    }
    println!("medians of {ROUNDS} rounds of {TURN:?} each, in {}", directory.display());
    let probe = median(probes);
    let others = shown.iter().map(|(name, ..)| *name).zip(rates.map(median));
    for (name, rate) in std::iter::once(("probe, 4 KiB", probe)).chain(others) {
        let (per_second, ratio) = (rate.per_second, rate.per_second / probe.per_second);
        println!("{name:<21} {per_second:>10.0}/s  {ratio:>6.2}× the probe  {:.3} syncs each", rate.syncs_each);
    }
}

const ROUNDS: usize = 5;
const TURN: Duration = Duration::from_secs(2);
const PROBE_FILE_BYTES: usize = 64 * 1024 * 1024;
