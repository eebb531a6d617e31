//! The sequencer beside a model that knows everything and looks through all of it: random write sets, random conditions, random
//! groups, failures that take groups back, a window so small that it forgets all the time.

use super::*;

/// All that was accepted and stands, in order: the keys of each commit.
#[derive(Default)]
struct Model {
    commits: Vec<Vec<(StorageId, Bytes, bool)>>,
}

impl Model {
    fn version(&self, space: StorageId, key: &Bytes) -> Option<Lsn> {
        let writes = |commit: &Vec<(StorageId, Bytes, bool)>| {
            commit.iter().find(|(s, k, _)| *s == space && k == key).map(|(_, _, is_present)| *is_present)
        };
        let last = self.commits.iter().enumerate().rev().find_map(|(index, commit)| Some((index, writes(commit)?)))?;
        last.1.then(|| Lsn::new(last.0 as u64 + 1))
    }

    /// Whether the condition holds; `None` where the sequencer may say that it cannot know any more.
    fn holds(&self, condition: &Precondition) -> bool {
        match condition {
            Precondition::Absent { space, key } => self.version(*space, key).is_none(),
            Precondition::Present { space, key } => self.version(*space, key).is_some(),
            Precondition::AtVersion { space, key, version } => self.version(*space, key) == Some(*version),
            Precondition::SchemaAt { table, version } => {
                self.version(CATALOG_SPACE, &catalog_key(table.value())) == Some(*version)
            }
            Precondition::RangeEmpty { space, range } => !self
                .commits
                .iter()
                .flatten()
                .any(|(s, key, _)| s == space && range.contains(key) && self.version(*space, key).is_some()),
            Precondition::RangeUnchanged { space, range, since } => {
                let after = self.commits.iter().skip(since.value() as usize).flatten();
                !{ after }.any(|(s, key, _)| s == space && range.contains(key))
            }
        }
    }
}

fn random_key(random: &mut Random) -> (StorageId, Bytes) {
    match random.below(10) {
        0 => (CATALOG_SPACE, catalog_key(random.below(3))),
        _ => (StorageId::new(1 + random.below(2)), Bytes::from(vec![random.below(24) as u8])),
    }
}

fn random_condition(random: &mut Random, model: &Model) -> Precondition {
    let (space, key) = random_key(random);
    let last = model.commits.len() as u64;
    let range = || {
        let mut random = Random::new(last.wrapping_mul(31) ^ u64::from(key[0]));
        let start = random.below(24) as u8;
        let end = (!random.one_in(4)).then(|| Bytes::from(vec![start.saturating_add(random.below(6) as u8)]));
        KeyRange { start: vec![start].into(), end }
    };
    match random.below(6) {
        0 => Precondition::Absent { space, key },
        1 => Precondition::Present { space, key },
        2 | 3 => {
            let version = model.version(space, &key).filter(|_| !random.one_in(4));
            let version = version.unwrap_or_else(|| Lsn::new(random.below(last + 1)));
            match space {
                CATALOG_SPACE => {
                    let table = TableId::new(u64::from(key[8]));
                    Precondition::SchemaAt { table, version }
                }
                _ => Precondition::AtVersion { space, key, version },
            }
        }
        4 => Precondition::RangeEmpty { space, range: range() },
        _ => Precondition::RangeUnchanged {
            space,
            range: range(),
            since: Lsn::new(last - random.below(last.min(12) + 1)),
        },
    }
}

fn random_set(random: &mut Random, model: &Model) -> WriteSet {
    let mut set = WriteSet::default();
    for _ in 0..1 + random.below(4) {
        let (space, key) = random_key(random);
        let name = KeyName::Bytes(key.clone());
        if set.keys.iter().any(|write| write.space == space && write.key == name) {
            continue;
        }
        let one = write(space, &key, !random.one_in(3));
        set.changes.extend(one.changes);
        set.keys.extend(one.keys);
    }
    set.preconditions = (0..random.below(3)).map(|_| random_condition(random, model)).collect();
    set
}

fn run(seed: u64) -> (u32, u32) {
    let mut random = Random::new(seed);
    let window_entries_max = [0, 3, 20, 10_000][random.below(4) as usize];
    let mut bench = bench(SequencerOptions { window_entries_max, ..SequencerOptions::default() });
    let mut model = Model::default();
    let mut waiting: Vec<oneshot::Receiver<Outcome>> = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..200 {
        let mut set = random_set(&mut random, &model);
        if random.one_in(2) {
            // A writer that has read somewhere back, and says only what it has seen there.
            let seen = random.below(model.commits.len() as u64 + 1).min(bench.rows.applied().value());
            let then = Model { commits: model.commits[..seen as usize].to_vec() };
            let is_key = |condition: &Precondition| {
                !matches!(condition, Precondition::RangeEmpty { .. } | Precondition::RangeUnchanged { .. })
            };
            set.preconditions.retain(|condition| !is_key(condition) || then.holds(condition));
            set.seen_at = Some(Lsn::new(seen));
        }
        let broken = set.preconditions.iter().find(|condition| !model.holds(condition)).cloned();
        let keys: Vec<_> = set
            .keys
            .iter()
            .map(|write| match &write.key {
                KeyName::Bytes(key) => (write.space, key.clone(), write.is_present),
                KeyName::RowOf(_) => unreachable!("the model names all keys"),
            })
            .collect();
        match bench.submit(set.clone()) {
            Ok(reply) => {
                assert_eq!(broken, None, "seed {seed}: accepted {set:?}");
                model.commits.push(keys);
                waiting.push(reply);
                accepted += 1;
            }
            Err(CommitError::Refused(Refusal::ReadTooOld { since, floor })) => {
                assert!(since < floor && floor <= bench.rows.applied(), "seed {seed}");
                refused += 1;
            }
            Err(CommitError::Refused(refusal)) => {
                assert!(broken.is_some(), "seed {seed}: {refusal:?} refused {set:?}");
                refused += 1;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if random.one_in(5) {
            let fails = random.one_in(4);
            if fails && !waiting.is_empty() {
                bench.fail_next(no_space());
            }
            let before = bench.log.appended();
            bench.commit_pending();
            for (index, mut reply) in waiting.drain(..).enumerate() {
                let outcome = reply.try_recv().expect("every accepted write set is answered");
                match outcome {
                    Ok(receipt) => assert_eq!(receipt.lsn, before.advanced_by(index as u64 + 1), "seed {seed}"),
                    Err(CommitError::NotCommitted { .. }) => assert!(fails, "seed {seed}"),
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            model.commits.truncate(bench.log.appended().value() as usize);
            assert_eq!(model.commits.len() as u64, bench.rows.applied().value(), "seed {seed}");
        }
    }
    (accepted, refused)
}

#[test]
fn the_sequencer_decides_as_the_model_does() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..400 {
        let (a, r) = run(seed);
        accepted += a;
        refused += r;
    }
    assert!(accepted > 20_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}
