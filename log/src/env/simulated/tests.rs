use super::*;
use crate::env::{Access, Disk};
use std::path::Path;

const DIRECTORY: &str = "/data";
const FILE: &str = "/data/file";

fn disk_with_file(seed: u64) -> (SimulatedDisk, Arc<dyn crate::env::DiskFile>) {
    let disk = SimulatedDisk::new(seed);
    disk.create_dir(Path::new(DIRECTORY)).unwrap();
    let file = disk.open(Path::new(FILE), Access::CreateNew).unwrap();
    (disk, file)
}

#[test]
fn what_was_synced_survives_and_the_rest_may_come_in_any_mixture() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let (disk, file) = disk_with_file(seed);
        disk.sync_dir(Path::new(DIRECTORY)).unwrap();
        file.write_at(&[1; 1024], 0).unwrap();
        file.sync_data().unwrap();
        file.write_at(&[2; 1024], 0).unwrap();
        disk.lose_power();
        let contents = disk.contents(Path::new(FILE)).unwrap();
        assert_eq!(contents.len(), 1024);
        outcomes.insert((contents[0], contents[512]));
        assert!(file.read_at(&mut [0], 0).is_err(), "a file of before the power loss is gone");
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 1), (2, 2)]);
}

#[test]
fn a_name_needs_its_directory_synced() {
    let survived = |sync: bool| {
        (0..100).filter(move |seed| {
            let (disk, file) = disk_with_file(*seed);
            file.sync_data().unwrap();
            if sync {
                disk.sync_dir(Path::new(DIRECTORY)).unwrap();
            }
            disk.lose_power();
            disk.contents(Path::new(FILE)).is_some()
        })
    };
    assert_eq!(survived(true).count(), 100);
    let without = survived(false).count();
    assert!(without > 0 && without < 100, "{without} of 100");
}

#[test]
fn a_failed_sync_loses_pages_for_good_while_reads_still_see_them() {
    let mut lost = 0;
    for seed in 0..100 {
        let (disk, file) = disk_with_file(seed);
        disk.sync_dir(Path::new(DIRECTORY)).unwrap();
        file.write_at(&[7; 512], 0).unwrap();
        disk.fail_call(disk.calls() + 1, Fault::Io);
        assert!(file.sync_data().is_err());
        assert_eq!(disk.contents(Path::new(FILE)).unwrap(), [7; 512]);
        file.sync_data().unwrap();
        disk.lose_power();
        lost += u32::from(disk.contents(Path::new(FILE)).unwrap() != [7; 512]);
    }
    assert!(lost > 10, "lost {lost} times of 100");
}

#[test]
fn the_same_seed_gives_the_same_power_loss() {
    let run = |seed| {
        let (disk, file) = disk_with_file(seed);
        file.write_at(&[3; 10_000], 0).unwrap();
        disk.sync_dir(Path::new(DIRECTORY)).unwrap();
        disk.lose_power();
        disk.contents(Path::new(FILE))
    };
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn a_full_disk_takes_what_fits_and_refuses_the_rest() {
    let (disk, file) = disk_with_file(1);
    disk.limit_free_bytes(100);
    assert_eq!(file.write_at(&[1; 150], 0).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.byte_len().unwrap(), 100);
    file.write_at(&[2; 100], 0).unwrap();
}
