//! Bits flip, files are cut or vanish: a refusal or a repair each, never a loss that nobody tells.

use super::*;

struct Sample {
    env: Env,
    disk: Arc<SimulatedDisk>,
    acknowledged: Vec<EncodedCommit>,
    files: Vec<(String, Vec<u8>)>,
}

fn sample(is_closed: bool) -> Sample {
    sample_trimmed(is_closed, false)
}

fn sample_trimmed(is_closed: bool, is_trimmed: bool) -> Sample {
    let (env, disk, clock) = machine(9);
    let log = open(&env).unwrap();
    let acknowledged = write_sample(&log, &clock);
    if is_trimmed {
        let base = Lsn::new(acknowledged.len() as u64 / 2);
        conformance::write_sample_base(&log, base).unwrap();
        assert!(log.trim(base).unwrap() > Lsn::new(1));
    }
    if is_closed {
        log.close().unwrap();
    } else {
        drop(log);
    }
    let names = env.disk.list(Path::new(PATH)).unwrap();
    let files =
        names.into_iter().map(|name| (name.clone(), disk.contents(&Path::new(PATH).join(name)).unwrap())).collect();
    Sample { env, disk, acknowledged, files }
}

impl Sample {
    /// Puts every file back as it was.
    fn restore(&self) {
        self.disk.kill_process();
        for name in self.env.disk.list(Path::new(PATH)).unwrap() {
            self.env.disk.remove(&Path::new(PATH).join(name)).unwrap();
        }
        for (name, contents) in &self.files {
            let path = Path::new(PATH).join(name);
            self.env.disk.open(&path, Access::CreateNew).unwrap();
            self.disk.damage(&path, |bytes| bytes.clone_from(contents));
        }
        self.env.disk.sync_dir(Path::new(PATH)).unwrap();
    }

    /// Opens and reads everything: `Err` tells of a refusal, `Ok` of how many acknowledged commits were there.
    fn survive(&self, judgement: Judgement) -> Result<usize, LogError> {
        let log = SegmentedLog::open_judging(&self.env, Path::new(PATH), small_options(), judgement)?;
        assert_base(&log)?;
        let (trimmed, read) = read_kept(&log)?;
        let count = (trimmed as usize + read.len()).min(self.acknowledged.len());
        let kept = &self.acknowledged[trimmed as usize..count];
        assert_eq!(read[..kept.len()], *kept, "a changed commit passed for a true one");
        Ok(count)
    }
}

fn is_refusal(error: &LogError) -> bool {
    matches!(
        error,
        LogError::Damaged(_) | LogError::BaseDamaged { .. } | LogError::Newer { .. } | LogError::BelowRetained { .. }
    )
}

/// Flips `count` bits, one at a time, drawn over all files; returns how often commits were lost without a word.
fn silent_losses(sample: &Sample, count: u64, judgement: Judgement) -> usize {
    let mut random = Random::new(77);
    let mut losses = 0;
    let mut refusals = 0;
    for _ in 0..count {
        sample.restore();
        let (name, contents) = &sample.files[random.below(sample.files.len() as u64) as usize];
        // Most of a segment may be zeros that nothing was written to: flips are drawn where something is.
        let used = contents.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let bit = random.below(used as u64 * 8) as usize;
        sample.disk.damage(&Path::new(PATH).join(name), |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        match sample.survive(judgement) {
            Ok(read) => losses += usize::from(read < sample.acknowledged.len()),
            Err(error) => {
                assert!(is_refusal(&error), "bit {bit} of {name}: {error}");
                refusals += 1;
            }
        }
    }
    assert!(refusals as u64 > count / 20, "{refusals} refusals over {count} flips");
    losses
}

#[test]
fn no_flipped_bit_loses_a_commit_silently() {
    for (is_closed, is_trimmed) in [(true, false), (false, false), (true, true), (false, true)] {
        let sample = sample_trimmed(is_closed, is_trimmed);
        assert_eq!(silent_losses(&sample, 1_500, Judgement::Specified), 0);
    }
}

#[test]
fn the_flips_find_a_log_that_is_cut_at_the_first_bad_frame() {
    assert!(silent_losses(&sample(false), 1_500, Judgement::CutsAtTheFirstBadFrame) > 0);
}

#[test]
fn a_missing_or_shortened_file_is_refused_or_repaired_and_never_a_loss() {
    for is_trimmed in [false, true] {
        let sample = sample_trimmed(true, is_trimmed);
        for (name, contents) in &sample.files {
            let path = Path::new(PATH).join(name);
            sample.restore();
            sample.env.disk.remove(&path).unwrap();
            check(&sample, name, "removed");
            for length in [0, 1, 40, 4_095, 4_096, 4_200, contents.len() / 2, contents.len() - 1] {
                sample.restore();
                sample.disk.damage(&path, |bytes| bytes.truncate(length));
                check(&sample, name, &format!("cut to {length}"));
            }
        }
    }
}

fn check(sample: &Sample, name: &str, what: &str) {
    match sample.survive(Judgement::Specified) {
        Ok(read) => assert_eq!(read, sample.acknowledged.len(), "{name} {what}"),
        Err(error) => assert!(is_refusal(&error), "{name} {what}: {error}"),
    }
}

#[test]
fn a_refusal_names_the_segment_the_bytes_and_the_commits() {
    let sample = sample(false);
    sample.restore();
    let (name, _) = sample
        .files
        .iter()
        .rev()
        .find(|(name, contents)| name.starts_with("segment") && contents[SEGMENT_HEADER_BYTES as usize] != 0)
        .unwrap();
    let at = SEGMENT_HEADER_BYTES as usize + 70;
    sample.disk.damage(&Path::new(PATH).join(name), |bytes| bytes[at] ^= 4);
    let LogError::Damaged(damage) = sample.survive(Judgement::Specified).unwrap_err() else { panic!("no damage") };
    assert_eq!(damage.bytes.start, SEGMENT_HEADER_BYTES);
    assert_eq!(name, &format!("segment-{:020}", damage.segment));
    assert_eq!(damage.last, Lsn::new(sample.acknowledged.len() as u64));
    assert!(damage.first <= damage.last);
}

#[test]
fn a_base_image_proves_that_what_it_is_of_was_durable() {
    let (env, disk, _) = machine(12);
    let log = open(&env).unwrap();
    write(&log, 4);
    conformance::write_sample_base(&log, Lsn::new(4)).unwrap();
    drop(log);
    disk.kill_process();
    let segment = Path::new(PATH).join(format!("segment-{:020}", 1));
    disk.damage(&segment, |bytes| bytes[SEGMENT_HEADER_BYTES as usize + 70] ^= 4);
    let error = open(&env).unwrap_err();
    assert!(matches!(&error, LogError::Damaged(damage) if damage.last == Lsn::new(4)), "{error}");
}

#[test]
fn a_witness_beyond_the_end_is_refused() {
    let (env, _, _) = machine(1);
    let log = open(&env).unwrap();
    write(&log, 3);
    let of_this_log = |lsn| vec![(log.id(), Lsn::new(lsn)), (LogId::from_bytes([0; 16]), Lsn::new(99))];
    let (beyond, just) = (of_this_log(4), of_this_log(3));
    drop(log);
    let options = SegmentedOptions { witnesses: beyond, ..small_options() };
    let error = SegmentedLog::open(&env, Path::new(PATH), options).unwrap_err();
    assert!(
        matches!(&error, LogError::Damaged(damage) if damage.first == Lsn::new(4) && damage.last == Lsn::new(4)),
        "{error}"
    );
    let options = SegmentedOptions { witnesses: just, ..small_options() };
    SegmentedLog::open(&env, Path::new(PATH), options).unwrap();
}

#[test]
fn files_of_a_newer_version_are_refused_with_both_versions() {
    let sample = sample(true);
    let newer = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        sample.restore();
        sample.disk.damage(&Path::new(PATH).join(name), change);
        let error = sample.survive(Judgement::Specified).unwrap_err();
        assert!(matches!(error, LogError::Newer { known: 1, .. }), "{error}");
        assert!(error.to_string().contains("format 2"), "{error}");
    };
    let newest = sample.files.iter().rfind(|(name, _)| name.starts_with("manifest")).unwrap();
    newer(&newest.0, &|bytes| {
        let mut manifest = Manifest::decode(bytes).unwrap();
        manifest.version = 2;
        *bytes = manifest.encode();
    });
    let last = sample.files.iter().rfind(|(name, _)| name.starts_with("segment")).unwrap();
    newer(&last.0, &|bytes| {
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..64]);
        bytes[64..68].copy_from_slice(&checksum.to_le_bytes());
    });
}

/// The offset of the first frame of the last segment that has any, and its file.
fn last_used(sample: &Sample) -> &str {
    let is_used = |contents: &[u8]| contents[SEGMENT_HEADER_BYTES as usize..].iter().any(|byte| *byte != 0);
    let last = sample.files.iter().rfind(|(name, contents)| name.starts_with("segment") && is_used(contents));
    &last.unwrap().0
}

#[test]
fn frames_of_a_newer_version_are_refused_and_never_cut() {
    let sample = sample(false);
    sample.restore();
    let seed = {
        let bytes = sample.files.iter().rfind(|(name, _)| name.starts_with("manifest")).unwrap();
        Manifest::decode(&bytes.1).unwrap().identity().seed()
    };
    // The whole segment's frames, as a later program might have written them: only the version differs.
    let path = Path::new(PATH).join(last_used(&sample));
    let start = SEGMENT_HEADER_BYTES as usize;
    sample.disk.damage(&path, |bytes| {
        bytes[start + 4] = 2;
        let seeded = crc32c::crc32c_append(seed.at(SEGMENT_HEADER_BYTES), &bytes[start..start + 56]);
        bytes[start + 56..start + 60].copy_from_slice(&seeded.to_le_bytes());
        bytes[start + 64..].fill(0);
    });
    let error = sample.survive(Judgement::Specified).unwrap_err();
    assert!(matches!(error, LogError::Newer { .. }), "{error}");
}

#[test]
fn a_segment_of_another_log_is_refused_and_left_alone() {
    let (ours, theirs) = (sample(true), {
        let (env, disk, clock) = machine(10);
        let log = open(&env).unwrap();
        write_sample(&log, &clock);
        log.close().unwrap();
        (env, disk)
    });
    ours.restore();
    let name = last_used(&ours).to_owned();
    let path = Path::new(PATH).join(name);
    let foreign = theirs.1.contents(&path).unwrap();
    ours.disk.damage(&path, |bytes| bytes.clone_from(&foreign));
    let error = ours.survive(Judgement::Specified).unwrap_err();
    assert!(error.to_string().contains("a segment of another log"), "{error}");
    assert_eq!(ours.disk.contents(&path).unwrap(), foreign, "nothing was changed");
}
