//! Whole segments go when a base image holds them, and their files come back as segments.

use super::*;

fn names(env: &Env, prefix: &str) -> Vec<String> {
    let names = env.disk.list(Path::new(PATH)).unwrap();
    names.into_iter().filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn a_log_that_is_trimmed_again_and_again_stays_small_and_uses_its_files_again() {
    let (env, disk, clock) = machine(4);
    let mut written = Vec::new();
    let (mut spares, mut most, mut gone_at_once) = (0, 0, 0);
    for round in 0..10 {
        let log = open(&env).unwrap();
        for step in 0..4 {
            written.extend(write_sample(&log, &clock));
            let base = Lsn::new(written.len() as u64 - 3);
            conformance::write_sample_base(&log, base).unwrap();
            let earliest = log.trim(base).unwrap();
            assert!(base.next() >= earliest && base.value() < earliest.value() + 60, "{earliest} of {base}");
            assert_eq!(names(&env, "base-"), [format!("base-{base:020}")]);
            spares += names(&env, "spare-").len();
            most = most.max(names(&env, "segment-").len());
            let (trimmed, kept) = read_kept(&log).unwrap();
            assert!(kept == written[trimmed as usize..], "round {round}, step {step}");
            assert_base(&log).unwrap();
        }
        written.extend(write_sample(&log, &clock));
        conformance::write_sample_base(&log, Lsn::new(written.len() as u64 - 1)).unwrap();
        match round % 3 {
            0 => log.close().unwrap(),
            1 => {
                drop(log);
                disk.kill_process();
            }
            _ => {
                drop(log);
                disk.lose_power();
            }
        }
        let log = open(&env).unwrap();
        assert_eq!(names(&env, "spare-").len(), 0, "an opening begins without spare files");
        let before = log.earliest();
        let earliest = log.trim(log.base().unwrap()).unwrap();
        gone_at_once += u32::from(earliest > before);
        let (trimmed, kept) = read_kept(&log).unwrap();
        assert!(kept == written[trimmed as usize..], "round {round}");
    }
    assert!(spares > 20, "files were put aside {spares} times");
    assert!(most < 12, "{most} segments at once");
    assert!(gone_at_once > 3, "what is sealed may go right after an opening: {gone_at_once}");
}

#[test]
fn segments_that_were_other_segments_before_are_read_and_verified_like_any() {
    let (env, _, clock) = machine(5);
    let log = open(&env).unwrap();
    let mut written = write_sample(&log, &clock);
    let base = Lsn::new(written.len() as u64 - 1);
    conformance::write_sample_base(&log, base).unwrap();
    log.trim(base).unwrap();
    assert_eq!(names(&env, "spare-").len(), 2);
    written.extend(write_sample(&log, &clock));
    assert_eq!(names(&env, "spare-").len(), 0, "they were taken again");
    // Behind the last frame of a segment in use lie frames of another one.
    let view = LogView::open(&env, Path::new(PATH)).unwrap();
    let verified = view.verify(|_| {}).unwrap();
    assert!(verified.damages.is_empty(), "{:?}", verified.damages);
    assert_eq!(verified.commits, view.complete().value() - log.earliest().previous().value());
    let mut seen = 0;
    view.commits(view.earliest().previous(), |commit| {
        seen += 1;
        assert_eq!(commit, written[commit.lsn().previous().value() as usize]);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen > 10);
    assert!(matches!(view.commits(Lsn::ORIGIN, |_| ControlFlow::Continue(())), Err(LogError::BelowRetained { .. })));
    let scrubbed = log.scrub().unwrap();
    assert!(scrubbed.damages.is_empty() && scrubbed.passes == 1, "{:?}", scrubbed.damages);
}

#[test]
fn a_base_image_that_rots_is_told_and_nothing_else_suffers() {
    let (env, disk, clock) = machine(6);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    let base = Lsn::new(written.len() as u64 / 2);
    conformance::write_sample_base(&log, base).unwrap();
    log.trim(base).unwrap();
    let path = Path::new(PATH).join(&names(&env, "base-")[0]);
    disk.damage(&path, |bytes| bytes[200] ^= 1);
    assert!(matches!(conformance::read_base(&log), Err(LogError::BaseDamaged { lsn, .. }) if lsn == base));
    let scrubbed = log.scrub().unwrap();
    assert_eq!(scrubbed.damages.len(), 1);
    assert!(scrubbed.damages[0].what.contains("base image"), "{}", scrubbed.damages[0]);
    let verified = LogView::open(&env, Path::new(PATH)).unwrap().verify(|_| {}).unwrap();
    assert_eq!(verified.damages.len(), 1);
    let (trimmed, kept) = read_kept(&log).unwrap();
    assert!(kept == written[trimmed as usize..]);
    disk.damage(&path, |bytes| bytes[200] ^= 1);
    assert!(log.scrub().unwrap().damages.is_empty(), "put right, it is damage no more");
}

#[test]
fn a_large_commit_is_trimmed_whole_or_not_at_all() {
    let (env, _, _) = machine(7);
    let log = open(&env).unwrap();
    let mut written = write(&log, 3);
    let large = sample_commit(Lsn::new(4), 700, 4_000);
    log.append(log.epoch(), Lsn::new(3), &Group { commits: vec![large.clone()] }).unwrap();
    log.make_durable().unwrap();
    written.push(large);
    written.extend(write(&log, 3));
    conformance::write_sample_base(&log, Lsn::new(6)).unwrap();
    for to in 0..=6 {
        log.trim(Lsn::new(to)).unwrap();
        let (trimmed, kept) = read_kept(&log).unwrap();
        assert!(trimmed <= to && kept == written[trimmed as usize..], "trimmed {trimmed} of {to}");
    }
}

#[test]
fn a_log_without_space_writes_no_image_and_stands() {
    let (env, disk, clock) = machine(8);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    let mut refused = 0;
    for call in 1.. {
        disk.fail_call(disk.calls() + call, Fault::NoSpace);
        let before = log.base();
        match conformance::write_sample_base(&log, Lsn::new(call)) {
            Ok(()) => break,
            Err(LogError::NotWritten { .. } | LogError::Io { .. }) => refused += 1,
            Err(error) => panic!("call {call}: {error}"),
        }
        assert_eq!(log.base(), before);
        assert_eq!(names(&env, "base-").iter().filter(|name| name.ends_with(".tmp")).count(), 0);
        assert!(read_after(&log, Lsn::ORIGIN).unwrap() == written);
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn parts_of_a_large_commit_that_was_trimmed_away_are_told_to_be_gone() {
    let (env, _, clock) = machine(6);
    let log = open(&env).unwrap();
    let large = sample_commit(Lsn::new(1), 60, 100_000);
    log.append(log.epoch(), Lsn::ORIGIN, &Group { commits: vec![large.clone()] }).unwrap();
    log.make_durable().unwrap();
    write_sample(&log, &clock);
    let found = log.read_after(Lsn::ORIGIN).unwrap().try_next().unwrap().unwrap();
    assert!(*found == large, "its parts are read where they are");
    let base = log.appended().previous();
    conformance::write_sample_base(&log, base).unwrap();
    assert!(log.trim(base).unwrap() > Lsn::new(1));
    // Its files become other segments.
    write_sample(&log, &clock);
    for part in 0..found.part_count() {
        let error = found.part(part).unwrap_err();
        assert!(matches!(error, LogError::BelowRetained { after: Lsn::ORIGIN, .. }), "{error}");
    }
}
