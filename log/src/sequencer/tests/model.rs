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

    /// What somebody knows who has seen the commits up to `seen`, and those of these numbers.
    fn seen_by(&self, seen: u64, own: &[u64]) -> Self {
        let is_seen = |lsn: u64| lsn <= seen || own.contains(&lsn);
        let commits = self.commits.iter().zip(1..);
        Self { commits: commits.map(|(keys, lsn)| if is_seen(lsn) { keys.clone() } else { Vec::new() }).collect() }
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

/// Somebody whose commits follow one another without waiting.
struct Follower {
    chain: Chain,
    own: Vec<u64>,
    seen: u64,
    is_broken: bool,
    /// All that it follows is durable.
    is_settled: bool,
}

/// How many write sets were accepted, refused, accepted behind others, and accepted though large.
fn run(seed: u64) -> (u32, u32, u32, u32) {
    let mut random = Random::new(seed);
    let window_entries_max = [0, 3, 20, 10_000][random.below(4) as usize];
    let mut bench = bench(SequencerOptions { window_entries_max, ..SequencerOptions::default() });
    let mut model = Model::default();
    let mut waiting: Vec<Accepted> = Vec::new();
    let (mut accepted, mut refused, mut followed, mut large_ones) = (0, 0, 0, 0);
    let mut follower: Option<Follower> = None;
    for _ in 0..200 {
        let mut set = random_set(&mut random, &model);
        let mut behind = follower.as_mut().filter(|_| random.one_in(2));
        let mut seen = 0;
        if behind.is_some() || random.one_in(2) {
            // A writer that has read somewhere back, and says only what it has seen there and in the commits that it follows.
            let from = behind.as_ref().map_or(0, |follower| follower.seen);
            seen = from + random.below(bench.rows.applied().value() - from + 1);
            let then = model.seen_by(seen, behind.as_ref().map_or(&[], |follower| &follower.own));
            let is_key = |condition: &Precondition| {
                !matches!(condition, Precondition::RangeEmpty { .. } | Precondition::RangeUnchanged { .. })
            };
            set.preconditions.retain(|condition| !is_key(condition) || then.holds(condition));
            set.seen_at = Some(Lsn::new(seen));
        }
        let keys: Vec<_> = set
            .keys
            .iter()
            .map(|write| match &write.key {
                KeyName::Bytes(key) => (write.space, key.clone(), write.is_present),
                KeyName::RowOf(_) => unreachable!("the model names all keys"),
            })
            .collect();
        let is_large = waiting.is_empty() && random.one_in(4);
        let mut is_broken_key = false;
        if is_large {
            // What its writer has seen of each key.
            let seen = set.seen_at.map_or(0, Lsn::value);
            let then = model.seen_by(seen, behind.as_ref().map_or(&[], |follower| &follower.own));
            let keys = set.keys.drain(..).map(|write| {
                let KeyName::Bytes(key) = write.key else { unreachable!("the model names all keys") };
                let found = match then.version(write.space, &key) {
                    Some(_) if random.one_in(8) => KeySeen::Other,
                    Some(version) => KeySeen::AtVersion(version),
                    None => KeySeen::Absent,
                };
                let version = model.version(write.space, &key);
                is_broken_key |= match found {
                    KeySeen::Absent => version.is_some(),
                    KeySeen::AtVersion(seen) => version != Some(seen),
                    KeySeen::Other => false,
                };
                ((write.space, key), found)
            });
            set.large = Some(large::spooled(set.changes.drain(..), keys.collect()));
        }
        let broken = set.preconditions.iter().find(|condition| !model.holds(condition)).cloned();
        match bench.submit_behind(set.clone(), behind.as_ref().map(|follower| follower.chain)) {
            Ok(reply) => {
                assert!(broken.is_none() && !is_broken_key, "seed {seed}: accepted {set:?} in spite of {broken:?}");
                large_ones += u32::from(is_large);
                model.commits.push(keys);
                accepted += 1;
                let lsn = reply.lsn.value();
                if let Some(follower) = behind {
                    assert!(!follower.is_broken, "seed {seed}: follows what was taken back");
                    (follower.chain, follower.seen, follower.is_settled) = (reply.chain, seen, false);
                    follower.own.push(lsn);
                    followed += 1;
                } else if random.one_in(4) {
                    let own = vec![lsn];
                    follower = Some(Follower { chain: reply.chain, own, seen, is_broken: false, is_settled: false });
                }
                waiting.push(reply);
            }
            Err(CommitError::NotCommitted { .. }) => {
                assert!(behind.take().is_some_and(|follower| follower.is_broken), "seed {seed}");
                follower = None;
            }
            Err(CommitError::Refused(Refusal::ReadTooOld { since, floor })) => {
                assert!(since < floor && floor <= bench.rows.applied(), "seed {seed}");
                refused += 1;
            }
            Err(CommitError::Refused(refusal)) => {
                assert!(broken.is_some() || is_broken_key, "seed {seed}: {refusal:?} refused {set:?}");
                refused += 1;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
        // Behind a large one, the next would wait for room.
        if random.one_in(5) || (is_large && !waiting.is_empty()) {
            let fails = random.one_in(4);
            if fails && !waiting.is_empty() {
                bench.fail_next(no_space());
                follower.iter_mut().for_each(|follower| follower.is_broken |= !follower.is_settled);
            }
            let before = bench.log.appended();
            bench.commit_pending();
            for (index, reply) in waiting.drain(..).enumerate() {
                let outcome = reply.try_outcome().expect("every accepted write set is answered");
                match outcome {
                    Ok(receipt) => assert_eq!(receipt.lsn, before.advanced_by(index as u64 + 1), "seed {seed}"),
                    Err(CommitError::NotCommitted { .. }) => assert!(fails, "seed {seed}"),
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            if let Some(follower) = follower.as_mut().filter(|follower| !follower.is_broken && random.one_in(2)) {
                (follower.chain, follower.is_settled) = (follower.chain.settled(), true);
            }
            model.commits.truncate(bench.log.appended().value() as usize);
            assert_eq!(model.commits.len() as u64, bench.rows.applied().value(), "seed {seed}");
        }
    }
    (accepted, refused, followed, large_ones)
}

#[test]
fn the_sequencer_decides_as_the_model_does() {
    let (mut accepted, mut refused, mut followed, mut large_ones) = (0, 0, 0, 0);
    for seed in 0..400 {
        let (a, r, f, l) = run(seed);
        large_ones += l;
        accepted += a;
        refused += r;
        followed += f;
    }
    assert!(accepted > 20_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
    assert!(followed > 5_000, "{followed} accepted behind others");
    assert!(large_ones > 2_000, "{large_ones} large ones accepted");
}
