//! Backups are logs: whole up to where they were begun, and of their own from there on.

use super::*;

const COPY: &str = "/backup/log";

fn pieces(log: &SegmentedLog) -> (BackupHeader, Vec<BackupPiece>) {
    let mut reader = log.backup().unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = reader.try_next().unwrap() {
        pieces.push(piece);
    }
    (*reader.header(), pieces)
}

fn put(env: &Env, path: &str, pieces: impl IntoIterator<Item = BackupPiece>) -> Result<Verification, LogError> {
    let mut writer = BackupWriter::begin(env, Path::new(path))?;
    pieces.into_iter().try_for_each(|piece| writer.put(piece))?;
    writer.finish(|_| {})
}

fn open_at(env: &Env, path: &str) -> Result<SegmentedLog, LogError> {
    SegmentedLog::open(env, Path::new(path), small_options())
}

#[test]
fn a_backup_holds_what_was_durable_and_goes_on_as_a_log_of_its_own() {
    for seed in 0..40 {
        let (env, disk, clock) = machine(seed);
        let mut random = Random::new(seed);
        let log = open(&env).unwrap();
        let mut written = Vec::new();
        for _ in 0..random.below(4) {
            written.extend(write_sample(&log, &clock));
        }
        if !written.is_empty() && random.one_in(2) {
            let base = Lsn::new(1 + random.below(written.len() as u64));
            conformance::write_sample_base(&log, base).unwrap();
            log.trim(base).unwrap();
        }
        // What is on its way is made durable by it; it may have sealed a segment.
        if random.one_in(2) {
            let parts = random.below(80);
            let loose = Group { commits: vec![sample_commit(log.appended().next(), 1 + parts, 1_000)] };
            log.append(log.epoch(), log.appended(), &loose).unwrap();
            written.extend(loose.commits);
        }
        let (header, pieces) = pieces(&log);
        let expected = BackupHeader { log: log.id(), lsn: Lsn::new(written.len() as u64), ..header };
        assert_eq!(header, expected, "seed {seed}");
        let bytes = |piece: &BackupPiece| if let BackupPiece::Bytes(bytes) = piece { bytes.len() as u64 } else { 0 };
        assert_eq!(pieces.iter().map(bytes).sum::<u64>(), header.bytes);
        let trimmed = log.earliest().previous();
        // The log goes on meanwhile.
        write_sample(&log, &clock);
        let verified = put(&env, COPY, pieces.clone()).unwrap();
        assert_eq!(verified.commits, header.lsn.value() - trimmed.value());
        disk.lose_power();
        let view = LogView::open(&env, Path::new(COPY)).unwrap();
        assert_eq!((view.id(), view.synced(), view.complete()), (log.id(), header.lsn, header.lsn), "seed {seed}");
        let read_only = ReadOnlyLog::open(&env, Path::new(COPY), &small_options()).unwrap();
        assert_eq!((read_only.id(), read_only.appended(), read_only.parents()), (log.id(), header.lsn, &[][..]));

        // A witness of what came later does not count against it.
        let witnesses = vec![(log.id(), header.lsn.advanced_by(1))];
        let options = SegmentedOptions { witnesses, ..small_options() };
        let own = SegmentedLog::open(&env, Path::new(COPY), options).unwrap();
        assert_ne!(own.id(), log.id());
        assert_eq!(own.parents(), [Parent { log: log.id(), lsn: header.lsn }]);
        assert!(own.epoch() > log.epoch());
        assert_eq!(read_kept(&own).unwrap(), (trimmed.value(), written[trimmed.value() as usize..].to_vec()));
        assert_base(&own).unwrap();
        let mut goes_on = written.clone();
        goes_on.extend(write_sample(&own, &clock));
        let id = own.id();
        drop(own);
        disk.lose_power();
        let own = open_at(&env, COPY).unwrap();
        assert_eq!((own.id(), own.parents()), (id, &[Parent { log: log.id(), lsn: header.lsn }][..]));
        assert_eq!(read_kept(&own).unwrap().1, goes_on[trimmed.value() as usize..]);
        assert!(own.scrub().unwrap().damages.is_empty());

        // A backup of that one names both; another one that goes on from the first backup is another log.
        let (second, pieces_of_own) = super::backup::pieces(&own);
        put(&env, "/second/log", pieces_of_own).unwrap();
        let grandchild = open_at(&env, "/second/log").unwrap();
        let lineage = [Parent { log: log.id(), lsn: header.lsn }, Parent { log: id, lsn: second.lsn }];
        assert_eq!(grandchild.parents(), lineage);
        assert_eq!(read_kept(&grandchild).unwrap().1, goes_on[trimmed.value() as usize..]);
        put(&env, "/sibling/log", pieces).unwrap();
        let sibling = open_at(&env, "/sibling/log").unwrap();
        assert!(![log.id(), id, grandchild.id()].contains(&sibling.id()));
    }
}

#[test]
fn which_log_it_is_survives_a_crash_and_the_loss_of_a_manifest() {
    let (env, disk, clock) = machine(3);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    put(&env, COPY, pieces(&log).1).unwrap();
    let own = open_at(&env, COPY).unwrap();
    let id = own.id();
    drop(own);
    disk.kill_process();
    let names = env.disk.list(Path::new(COPY)).unwrap();
    let newest = names.iter().filter(|name| name.starts_with("manifest-")).max().unwrap();
    disk.damage(&Path::new(COPY).join(newest), |bytes| bytes[60] ^= 1);
    let own = open_at(&env, COPY).unwrap();
    assert_eq!(own.id(), id);
    assert_eq!(read_after(&own, Lsn::ORIGIN).unwrap(), written);
}

#[test]
fn a_segment_of_a_relative_is_not_taken_for_its_own() {
    let (env, disk, clock) = machine(4);
    let log = open(&env).unwrap();
    write_sample(&log, &clock);
    let (_, pieces) = pieces(&log);
    let mut ends = Vec::new();
    for (path, count) in [("/one/log", 1), ("/two/log", 2)] {
        put(&env, path, pieces.clone()).unwrap();
        let own = open_at(&env, path).unwrap();
        write(&own, count);
        (0..3).for_each(|_| drop(write_sample(&own, &clock)));
        ends.push(own.shared.reading.active_segment());
        own.close().unwrap();
    }
    // Both have the same names, lengths and signatures; what lies before is not the same.
    let contested = SegmentId::new(ends[0].value() - 1);
    let path = |log: &str| Path::new(log).join(format!("segment-{contested:020}"));
    let file = env.disk.open(&path("/two/log"), Access::Read).unwrap();
    let mut contents = vec![0; file.byte_len().unwrap() as usize];
    file.read_at(&mut contents, 0).unwrap();
    disk.damage(&path("/one/log"), |bytes| bytes.clone_from(&contents));
    let damages = LogView::open(&env, Path::new("/one/log")).map(|view| view.verify(|_| {}).unwrap().damages);
    assert!(damages.as_ref().map_or(true, |damages| !damages.is_empty()), "{damages:?}");
}

#[test]
fn a_backup_of_which_anything_is_missing_is_none() {
    let (env, disk, clock) = machine(5);
    let log = open(&env).unwrap();
    write_sample(&log, &clock);
    let (header, pieces) = pieces(&log);
    for length in 0..pieces.len() {
        let path = format!("/cut/{length}");
        let cut = put(&env, &path, pieces[..length].iter().cloned());
        assert!(matches!(cut, Err(LogError::NotABackup { .. })), "{length}: {cut:?}");
        let opened = LogView::open(&env, Path::new(&path));
        assert!(matches!(opened, Err(LogError::NotABackup { .. })), "{length}: {opened:?}");
        let opened = open_at(&env, &path);
        assert!(matches!(opened, Err(LogError::NotABackup { .. })), "{length}: {opened:?}");
    }
    for (index, left_out) in pieces.iter().enumerate() {
        let BackupPiece::Bytes(bytes) = left_out else { continue };
        let path = format!("/without/{index}");
        let without = pieces.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, piece)| piece.clone());
        let found = put(&env, &path, without);
        assert!(found.is_err(), "without piece {index} of {} bytes: {found:?}", bytes.len());
    }
    for (index, changed) in pieces.iter().enumerate() {
        let BackupPiece::Bytes(bytes) = changed else { continue };
        let mut bytes = bytes.to_vec();
        // Behind the last frame there are zeros, up to the page's end.
        bytes[100] ^= 1;
        let mut pieces = pieces.clone();
        pieces[index] = BackupPiece::Bytes(bytes.into());
        let path = format!("/changed/{index}");
        let is_header = matches!(&pieces[index - 1], BackupPiece::File { name, .. } if name.starts_with("segment-"));
        let found = put(&env, &path, pieces);
        // A segment's header block has zeros behind its checksum, and nothing asks for them.
        assert_eq!(found.is_err(), !is_header, "piece {index}: {found:?}");
    }
    let full = put(&env, "/full", pieces.clone()).unwrap();
    assert_eq!(full.commits, header.lsn.value());
    assert!(matches!(put(&env, "/full", pieces), Err(LogError::NotEmpty { .. })));
    disk.lose_power();
    assert_eq!(LogView::open(&env, Path::new("/full")).unwrap().synced(), header.lsn);
}

#[test]
fn a_backup_that_was_broken_off_is_opened_by_nobody() {
    let (env, disk, clock) = machine(8);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock).len() as u64;
    conformance::write_sample_base(&log, Lsn::new(written)).unwrap();
    log.trim(Lsn::new(written)).unwrap();
    let (_, pieces) = pieces(&log);
    for length in 0..=pieces.len() {
        let path = format!("/broken/{length}");
        let mut writer = BackupWriter::begin(&env, Path::new(&path)).unwrap();
        pieces[..length].iter().cloned().for_each(|piece| writer.put(piece).unwrap());
        drop(writer);
        if length % 2 == 0 {
            disk.kill_process();
        } else {
            disk.lose_power();
        }
        let opened = open_at(&env, &path);
        assert!(matches!(opened, Err(LogError::NotABackup { .. })), "{length}: {opened:?}");
    }
}

#[test]
fn pieces_that_no_log_has_given_are_refused() {
    let (env, _, _) = machine(6);
    let file = |name: &str, bytes| BackupPiece::File { name: name.to_owned(), bytes };
    let bytes = |count| BackupPiece::Bytes(vec![1; count].into());
    let segment = format!("segment-{:020}", 1);
    for (index, pieces) in [
        vec![file("../segment", 3)],
        vec![file("LOCK", 3)],
        vec![file(&format!("segment-{:020}/../../x", 1), 3)],
        vec![file("segment-+0000000000000000001", 3)],
        vec![bytes(1)],
        vec![file(&segment, 3), bytes(4)],
        vec![file(&segment, 3), bytes(2), bytes(2)],
        vec![file(&format!("manifest-{:020}", 1), 3), bytes(2_000_000)],
        vec![file(&format!("manifest-{:020}", 1), 3), file(&segment, 3)],
        vec![file(&format!("manifest-{:020}", 1), 3), bytes(3)],
    ]
    .into_iter()
    .enumerate()
    {
        let found = put(&env, &format!("/refused/{index}"), pieces);
        assert!(matches!(found, Err(LogError::NotABackup { .. })), "{index}: {found:?}");
    }
}

#[test]
fn a_trim_ends_the_backup_of_what_it_takes_away() {
    let (env, _, clock) = machine(7);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    let base = Lsn::new(written.len() as u64 - 1);
    for begun in 0..3 {
        let mut reader = log.backup().unwrap();
        for _ in 0..begun {
            reader.try_next().unwrap().unwrap();
        }
        if begun == 0 {
            conformance::write_sample_base(&log, base).unwrap();
            log.trim(base).unwrap();
        } else {
            let written = read_kept(&log).unwrap();
            let count = write_sample(&log, &clock).len() as u64 + written.0 + written.1.len() as u64;
            conformance::write_sample_base(&log, Lsn::new(count)).unwrap();
            log.trim(Lsn::new(count)).unwrap();
        }
        let outcome = loop {
            match reader.try_next() {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(outcome, Err(LogError::TrimmedMeanwhile)), "{begun}: {outcome:?}");
    }
    put(&env, COPY, pieces(&log).1).unwrap();
    assert_eq!(read_kept(&open_at(&env, COPY).unwrap()).unwrap(), read_kept(&log).unwrap());
}
