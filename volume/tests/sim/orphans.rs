//! What belongs to no volume, and volumes that no name leads to; deletions of damaged volumes.

use std::io::IoSlice;

use lsvd_store::{FaultPlan, Key, ObjectStore};
use lsvd_volume::check::{Finding, Severity};
use lsvd_volume::{Check, CheckReport, Engine, Error, FileAttrs};

use crate::hosts::{boot, learn, objects, patient};
use crate::platform::CrashAt;
use crate::shared::named;
use crate::world::{Host, Running, World, name};

const LOOK: Check = Check { deep: false, repair: false, bytes_per_s: None };
const REPAIR: Check = Check { repair: true, ..LOOK };

fn check(running: &Running, options: Check) -> CheckReport {
    running.engine.check(None, options, &mut |_| true).unwrap()
}

fn create(engine: &Engine, name: &str, created_ms: u64) -> Result<(), Error> {
    let attrs = FileAttrs { mode: 0o600, uid: 0, gid: 0, created_ms, modified_ms: 1 };
    engine.create(&named(name), 8 << 20, attrs).map(drop)
}

fn names(running: &Running) -> Vec<String> {
    running.engine.list().unwrap().into_iter().map(|info| info.name).collect()
}

fn keys(world: &World, prefix: &str) -> Vec<Key> {
    let page = world.store.list(prefix, None, 10_000).unwrap();
    page.objects.into_iter().filter(|o| o.size > 0).map(|o| o.key).collect()
}

fn superblock(world: &World) -> Key {
    keys(world, "data/").into_iter().find(|key| key.as_str().ends_with("/super")).unwrap()
}

fn put(world: &World, key: &Key, bytes: &[u8]) {
    world.store.delete(key).unwrap();
    world.store.create(key, &[IoSlice::new(bytes)]).unwrap();
}

fn with_data(seed: u64) -> World {
    let mut world = World::new(seed, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 300);
    world.upload(&volume);
    drop(volume);
    running.drain();
    world
}

fn crash(world: &mut World, step: &'static str, act: impl Fn(&Engine) -> Result<(), Error>) {
    let running = world.boot(CrashAt::Failpoint(step, 1), FaultPlan::none()).unwrap();
    act(&running.engine).expect_err("it crashes there");
    assert!(running.life.is_dead(), "{step} is not reached");
    world.kill(running);
}

/// One orphan is found, and after its repair nothing.
fn one_orphan(running: &Running) -> Finding {
    let report = check(running, LOOK);
    assert_eq!((report.tally.orphans, report.tally.damage), (1, 0), "{report:#?}");
    let mended = check(running, REPAIR);
    assert_eq!((mended.tally.orphans, mended.tally.mended), (1, 1), "{mended:#?}");
    let after = check(running, LOOK);
    assert!(after.is_clean(), "{after:#?}");
    report.findings.into_iter().find(|f| f.severity == Severity::Orphan).unwrap()
}

#[test]
fn check_removes_what_a_creation_left() {
    for (created_ms, is_old) in [(1, true), (u64::MAX, false)] {
        let mut world = with_data(220);
        crash(&mut world, "create.name", |engine| create(engine, "new", created_ms));
        let running = boot(&mut world);
        if is_old {
            one_orphan(&running);
            assert_eq!(keys(&world, "data/").len(), objects(&world).len() + 1);
        } else {
            let report = check(&running, REPAIR);
            assert_eq!((report.tally.notes, report.tally.orphans), (1, 0), "{report:#?}");
        }
        assert_eq!(names(&running), ["sim"]);
        running.end();
    }
}

/// Loses all objects of the stream, and the name.
fn lose_objects(world: &World) {
    let gone = objects(world).into_iter().chain(keys(world, "volumes/"));
    gone.for_each(|key| world.store.delete(&key).unwrap());
}

#[test]
fn check_throws_nothing_away_that_was_written_to() {
    // There was a checkpoint: the superblock knows.
    let mut world = with_data(225);
    lose_objects(&world);
    let running = boot(&mut world);
    let report = check(&running, REPAIR);
    assert_eq!((report.tally.orphans, report.tally.mended), (1, 1), "{report:#?}");
    assert!(report.tally.damage > 0, "{report:#?}");
    assert_eq!((names(&running).len(), keys(&world, "data/").len()), (1, 1));
    assert_eq!(world.machine.logs(), 1);
    running.end();

    // There was none, but a log of this host.
    let mut world = World::new(226, 1);
    patient(&mut world);
    let (running, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 300);
    drop(volume);
    world.kill(running);
    lose_objects(&world);
    let running = boot(&mut world);
    one_orphan_or_none(&running);
    assert_eq!((names(&running).len(), keys(&world, "data/").len()), (1, 1));
    assert_eq!(world.machine.logs(), 1);
    running.end();
}

#[test]
fn check_does_not_begin_a_deletion_that_it_cannot_end() {
    let mut world = World::new(227, 1);
    patient(&mut world);
    let running = boot(&mut world);
    create(&running.engine, "new", 1).unwrap();
    let record = keys(&world, "volumes/").into_iter().find(|key| key.as_str().ends_with("new"));
    let record = record.unwrap();
    let (mut bytes, _) = world.store.get(&record).unwrap();
    bytes[20] ^= 1;
    put(&world, &record, &bytes);
    for _ in 0..2 {
        let report = check(&running, REPAIR);
        assert_eq!((report.tally.orphans, report.tally.mended), (1, 0), "{report:#?}");
    }
    bytes[20] ^= 1;
    put(&world, &record, &bytes);
    assert!(check(&running, LOOK).is_clean());
    assert!(names(&running).contains(&"new".to_owned()));
    running.end();
}

#[test]
fn check_finishes_deletions() {
    let steps = [
        "delete.fence",
        "delete.objects",
        "log.discard",
        "log.discarded",
        "delete.name",
        "delete.superblock",
    ];
    for step in steps {
        let mut world = with_data(221);
        assert_eq!(world.machine.logs(), 1);
        crash(&mut world, step, |engine| engine.delete(&name()));
        let running = boot(&mut world);
        let finding = one_orphan(&running);
        assert!(finding.detail.contains("deletion"), "{finding:?}");
        assert!(keys(&world, "data/").is_empty(), "{step}");
        assert!(keys(&world, "volumes/").is_empty(), "{step}");
        assert_eq!(world.machine.logs(), 0, "{step}: its log stays on the SSD");
        running.end();
    }
}

#[test]
fn check_gives_up_names_that_a_rename_left() {
    for step in ["rename.superblock", "rename.old_name"] {
        let mut world = with_data(222);
        crash(&mut world, step, |engine| engine.rename(&name(), &named("to")));
        let running = boot(&mut world);
        let before = names(&running);
        let finding = one_orphan(&running);
        assert!(finding.what.contains("name record"), "{finding:?}");
        assert_eq!((names(&running), keys(&world, "volumes/").len()), (before, 1));
        running.end();
    }
}

#[test]
fn check_gives_volumes_without_a_name_one() {
    let mut world = with_data(223);
    let record = keys(&world, "volumes/").pop().unwrap();
    let (bytes, _) = world.store.get(&record).unwrap();
    world.store.delete(&record).unwrap();
    let running = boot(&mut world);
    assert!(names(&running).is_empty());
    one_orphan(&running);
    let found = names(&running);
    assert!(matches!(found.as_slice(), [one] if one.starts_with("recovered-")), "{found:?}");
    running.engine.rename(&named(&found[0]), &name()).unwrap();
    world.check(&running.open().unwrap());
    running.drain();

    // A record that is damaged is written anew.
    let mut damaged = bytes.clone();
    damaged[20] ^= 1;
    put(&world, &record, &damaged);
    let running = boot(&mut world);
    let report = check(&running, REPAIR);
    assert_eq!((report.tally.damage, report.tally.mended), (1, 1), "{report:#?}");
    assert_eq!((check(&running, LOOK).is_clean(), names(&running)), (true, vec!["sim".to_owned()]));
    assert!(world.store.get(&record).unwrap().0 == bytes);
    running.end();
}

#[test]
fn check_sweeps_what_came_after_a_deletion_and_spares_what_may_be_a_volume() {
    let mut world = with_data(224);
    let all: Vec<_> = keys(&world, "data/")
        .into_iter()
        .map(|key| (key.clone(), world.store.get(&key).unwrap().0))
        .collect();
    let running = boot(&mut world);
    running.engine.delete(&name()).unwrap();
    let (late, bytes) = all.iter().find(|(_, bytes)| bytes[12] == 1 && bytes.len() > 1000).unwrap();
    put(&world, late, bytes);
    let finding = one_orphan(&running);
    assert_eq!(finding.bytes, Some(bytes.len() as u64));
    assert!(keys(&world, "data/").is_empty());
    // All of a volume, but for its superblock.
    for (key, bytes) in all.iter().filter(|(key, _)| !key.as_str().ends_with("/super")) {
        put(&world, key, bytes);
    }
    let report = check(&running, REPAIR);
    assert_eq!((report.tally.damage, report.tally.mended), (1, 0), "{report:#?}");
    assert_eq!(keys(&world, "data/").len(), all.len() - 1);
    running.end();
}

/// Whatever step a forced deletion crashes at, the next one finishes it.
#[test]
fn a_damaged_volume_can_be_deleted_by_force() {
    let steps = [
        "delete.condemn",
        "delete.mark",
        "delete.fence",
        "delete.objects",
        "delete.name",
        "delete.superblock",
    ];
    for (round, step) in steps.into_iter().enumerate() {
        let mut world = with_data(225);
        let key = superblock(&world);
        let (mut bytes, _) = world.store.get(&key).unwrap();
        bytes[30] ^= 1;
        match round % 2 {
            0 => put(&world, &key, &bytes),
            _ => world.store.delete(&key).unwrap(),
        }
        let refused = boot(&mut world);
        refused.engine.delete(&name()).expect_err("not without force");
        let report = check(&refused, REPAIR);
        assert_eq!((report.tally.damage, report.tally.mended), (1, 0), "{report:#?}");
        refused.end();
        crash(&mut world, step, |engine| engine.delete_damaged(&name()));
        let running = boot(&mut world);
        match running.engine.delete_damaged(&name()) {
            Err(Error::NoSuchVolume(_)) if step == "delete.superblock" => {
                one_orphan_or_none(&running);
            }
            deleted => deleted.unwrap(),
        }
        // Nothing but what keeps a writer out that may be there.
        let rest = keys(&world, "data/");
        let guards = |key: &Key| world.store.head(key).unwrap().size < 512;
        assert!(rest.iter().all(|key| key.as_str().contains("/o/") && guards(key)), "{rest:?}");
        assert!(!rest.is_empty() && keys(&world, "volumes/").is_empty(), "{step}: {rest:?}");
        let report = check(&running, LOOK);
        assert_eq!((report.tally.notes, report.findings.len()), (1, 1), "{report:#?}");
        create(&running.engine, "sim", 1).unwrap();
        running.engine.open_writer(&name()).unwrap();
        running.end();
    }
}

fn one_orphan_or_none(running: &Running) {
    let report = check(running, REPAIR);
    assert_eq!((report.tally.orphans, report.tally.mended), (1, 1), "{report:#?}");
}

#[test]
fn a_forced_deletion_deposes_the_writer() {
    let mut world = World::new(226, 1);
    patient(&mut world);
    let (writer, volume) = world.boot_and_check();
    world.write(&volume, 0, 0, 300);
    world.upload(&volume);
    volume.collect(0, true, &mut |_| true).unwrap();
    let key = superblock(&world);
    let (mut bytes, _) = world.store.get(&key).unwrap();
    bytes[30] ^= 1;
    put(&world, &key, &bytes);
    let mut other = Host::new("sim-b");
    world.go_to(&mut other);
    let deleter = boot(&mut world);
    deleter.engine.delete_damaged(&name()).unwrap();
    let error = learn(&volume);
    assert!(matches!(error, Error::Deleted(_) | Error::Fenced { .. }), "{error}");
    drop(volume);
    let _ = writer.engine.shutdown(lsvd_volume::Close::Keep, &mut |_| true);
    deleter.end();
}
